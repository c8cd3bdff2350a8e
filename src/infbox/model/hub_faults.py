"""What can go wrong with a hub, told to a person: which faults pass with time, and which do not."""

import errno
from typing import NoReturn

import httpx2
from huggingface_hub import errors

from infbox.errors import ModelError
from infbox.model.settings import ModelSettings

NO_NETWORK = (
    "check the way out of this machine and the proxy; without one set `model_hub_endpoint` to a mirror of the hub, or "
    "copy the model to the machine and use `model_source: folder:/path`"
)
_PASSING = {408, 416, 425, 429, 500, 502, 503, 504}


def judge(fault: Exception, settings: ModelSettings, repo: str, where: str, with_token: bool) -> str:
    """Say in a few words why an attempt failed, if another may succeed.

    Raises:
        ModelError: no other attempt will.
        OSError: it is the disk's fault, not the hub's.
    """
    page = f"{where}/{repo}"
    if isinstance(fault, errors.OfflineModeIsEnabled):
        raise ModelError(
            "the hub's client is offline: HF_HUB_OFFLINE is set",
            "take HF_HUB_OFFLINE out of the unit's environment, or use `model_source: folder:/path`",
        )
    if isinstance(fault, errors.HfHubHTTPError):
        status = fault.response.status_code
        if status in _PASSING:
            return f"answer {status}"
        _refuse(fault, status, settings, repo, page, with_token)
    if isinstance(fault, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects | httpx2.InvalidURL):
        raise ModelError(f"{where} sends the client astray: {fault}", "check `model_hub_endpoint`")
    if isinstance(fault, httpx2.HTTPError):
        return f"{type(fault).__name__} {fault}".strip()
    if isinstance(fault, OSError):
        if fault.errno is None or isinstance(fault, ConnectionError) or fault.errno == errno.ETIMEDOUT:
            return "the answer ended early"
        raise fault
    raise ModelError(
        f"{where} does not answer as a Hugging Face hub does ({type(fault).__name__}: {str(fault)[:200]})",
        "check `model_hub_endpoint`, and that no proxy answers in the hub's place",
    )


def _refuse(
    fault: errors.HfHubHTTPError, status: int, settings: ModelSettings, repo: str, page: str, with_token: bool
) -> NoReturn:
    """A refusal that stays one."""
    accept = f"open {page}, accept the model's terms with your account"
    if isinstance(fault, errors.GatedRepoError) or status == 403:
        if with_token:
            raise ModelError(
                f"the token in `model_hub_token` may not read {repo} (answer {status})",
                f"{accept}, and see that the token may read gated repositories",
            )
        raise ModelError(
            f"{repo} is gated and there is no token (answer {status})",
            f"{accept}, and put its read token in the variable `model_hub_token`",
        )
    if isinstance(fault, errors.RevisionNotFoundError):
        raise ModelError(
            f"{repo} has no such revision: MODEL_SOURCE={settings.source!r}",
            f"see {page}/commits/main, or leave @REVISION out",
        )
    if isinstance(fault, errors.RemoteEntryNotFoundError):
        raise ModelError(f"{repo} lists a file that it does not serve (answer {status})", "try again later")
    if status == 401 and with_token:
        raise ModelError(
            f"the hub does not know the token in `model_hub_token`, or it may not see {repo} (answer 401)",
            f"make a new read token, put it in `model_hub_token`, and check the model's name: {page}",
        )
    if isinstance(fault, errors.RepositoryNotFoundError) or status in (401, 404):
        raise ModelError(
            f"there is no model {repo!r} at {page} (answer {status})",
            "check the spelling, upper and lower case too; a private model needs a token in `model_hub_token`",
        )
    raise ModelError(f"{page} answers {status}", "read what the page says in a browser, then try again")


def refuse_without_safetensors(repo: str, names: set[str]) -> NoReturn:
    """A repository that no engine here loads."""
    if "adapter_config.json" in names:
        hint = "it is a LoRA adapter: name the base model that its adapter_config.json gives"
    elif any(name.endswith(".gguf") for name in names):
        hint = "it holds GGUF files: name the model that they were made from (its card links it)"
    elif any(name.endswith((".bin", ".pth", ".pt")) for name in names):
        hint = "its weights are pickles, which run code when they are loaded: look for a safetensors revision of it"
    else:
        hint = "name a model whose page lists *.safetensors files"
    raise ModelError(f"{repo} has no *.safetensors", hint)
