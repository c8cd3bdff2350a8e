"""Is an answer from KV that was loaded the one that was computed? `infbox kv check` asks the engine of this box.

A prompt that nobody asked before is computed and answered; the engine forgets its own prefix cache; the same prompt is
answered from what the daemon has. At temperature 0 both answers have to be equal, token by token. Where arithmetic
depends on how a batch was cut, as on GPUs, tokens of about the same probability may change places: a difference counts
as a fault only where the computed answer's first token was more likely than its second by more than `margin` (in
natural logarithms of probability). Behind the first difference the answers are two texts, and nothing is compared.
"""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, cast

from infbox.engine_probe import MODELS_PATH, Ask, ask_over, explanation, first_model
from infbox.errors import NotReadyError
from infbox.kv.reset import PATH

CHUNKS = 2
ANSWER_TOKENS = 24
TRIES = 8
PAUSE_SECONDS = 1.0
SALT = "infbox-check"
_LOGS = "journalctl -u infbox-lmcache -n 50; journalctl -u infbox-vllm -n 50"


@dataclass(frozen=True)
class Answered:
    """An answer's tokens, by how much each led the next best, and where the prompt's KV came from."""

    tokens: list[str]
    leads: list[float]
    prompt: int
    cached: int


def check(socket: str, chunk_tokens: int, margin: float, timeout: float) -> Answered:
    """Compare a computed and a loaded answer; returns the loaded one.

    Args:
        socket: the engine's.
        margin: see above; 0 asks for equality.
        timeout: seconds for each request.

    Raises:
        NotReadyError: they differ, or the daemon did not give back what was computed.
    """
    listed = ask_over(socket, Ask("GET", MODELS_PATH), timeout)
    model = first_model(listed)
    words = _prompt(chunk_tokens * CHUNKS)
    computed = _ask(socket, model, words, timeout)
    loaded = computed
    for _ in range(TRIES):
        time.sleep(PAUSE_SECONDS)  # what was computed is stored behind the answer
        if not _forget(socket, timeout):
            continue
        loaded = _ask(socket, model, words, timeout)
        if difference := compare(computed, loaded, margin):
            hint = f"do not use this box: set lmcache_l1_size_gib to 0 and run site.yml; {_LOGS}"
            raise NotReadyError(f"an answer from loaded KV is not the one that was computed: {difference}", hint)
        if loaded.cached >= chunk_tokens:
            return loaded
    raise NotReadyError(
        f"the daemon gave back {loaded.cached} of {loaded.prompt} tokens that the engine had computed", _LOGS
    )


def compare(computed: Answered, loaded: Answered, margin: float) -> str:
    """What is wrong with the loaded answer; empty if nothing is."""
    both = zip(computed.tokens, loaded.tokens, computed.leads, strict=False)
    for place, (first, second, lead) in enumerate(both):
        if first != second:
            text = f"token {place + 1} is {second!r} for {first!r}, which led by {lead:.3f}"
            return text if lead > margin or margin == 0 else ""
    if len(computed.tokens) != len(loaded.tokens):
        return f"it has {len(loaded.tokens)} tokens for {len(computed.tokens)}"
    return ""


def _prompt(tokens: int) -> str:
    """A text of at least so many tokens that was never asked; a word of six hexadecimal digits has three or more."""
    return " ".join(secrets.token_hex(3) for _ in range(tokens // 3)) + " The next words are:"


def _forget(socket: str, timeout: float) -> bool:
    answer = ask_over(socket, Ask("POST", PATH), timeout)
    told = answer.json()
    if answer.status != 200 or not isinstance(told, dict):
        hint = "it runs without the daemon: systemctl restart infbox-vllm, when infbox-lmcache is up"
        raise NotReadyError(f"the engine does not forget its cache: {answer.status} {explanation(answer)}", hint)
    return bool(cast("dict[str, object]", told).get("done"))


def _ask(socket: str, model: str, prompt: str, timeout: float) -> Answered:
    body: dict[str, object] = {"model": model, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    body |= {"logprobs": 2, "cache_salt": SALT, "ignore_eos": True}
    answer = ask_over(socket, Ask("POST", "/v1/completions", body), timeout)
    if answer.status != 200:
        raise NotReadyError(f"the engine answered {answer.status} {explanation(answer)}", _LOGS)
    return _read(json.loads(answer.body))


def _read(told: dict[str, Any]) -> Answered:
    logprobs = told["choices"][0]["logprobs"]
    leads: list[float] = []
    for best in logprobs["top_logprobs"]:
        values = sorted(best.values(), reverse=True)
        leads.append(values[0] - values[1] if len(values) > 1 else float("inf"))
    details: dict[str, Any] = told["usage"].get("prompt_tokens_details") or {}
    cached = int(details.get("cached_tokens") or 0)
    return Answered(logprobs["tokens"], leads, told["usage"]["prompt_tokens"], cached)
