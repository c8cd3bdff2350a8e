"""A model's configuration from the hub: one small file, for `infbox plan --model ORG/NAME`. Apart, for its imports."""

import tempfile
import threading
from pathlib import Path

from infbox.catalogue.config import MAX_BYTES, read_config
from infbox.catalogue.models import Model
from infbox.errors import ModelError
from infbox.model.settings import HubSource, ModelSettings, parse_source

_WAY_OUT = "plan without the hub: --model /PATH of a folder with the model's config.json"


def hub_model(source: str, endpoint: str = "") -> Model:
    """The model `hf:ORG/NAME[@REVISION]` or ORG/NAME, from its config.json and its list of files.

    Raises:
        ModelError: the hub cannot be reached or has no such model, or its configuration cannot be planned.
    """
    from infbox.model import hub_faults
    from infbox.model.hub_client import HubClient

    written = source if source.startswith("hf:") else f"hf:{source}"
    parsed = parse_source(written)
    if not isinstance(parsed, HubSource):
        raise ModelError(f"{source} names no model of the hub", "write hf:ORG/NAME")
    client = HubClient(parsed.repo, endpoint, "")
    settings = ModelSettings(source=written, name="plan", root=Path(tempfile.gettempdir()), hub_endpoint=endpoint)
    try:
        commit = client.resolve(parsed.revision)
        files = client.list_files(commit)
        config = next((file for file in files if file.path == "config.json"), None)
        if config is None or config.size > MAX_BYTES:
            raise ModelError(f"{parsed.repo} has no config.json that could be a model's", "name a model's repository")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            client.append(commit, config, path, threading.Event())
            try:
                architecture = read_config(path)
            except ModelError as fault:
                named = fault.message.replace(str(path), f"{parsed.repo}/config.json")
                raise ModelError(named, fault.hint) from None
    except ModelError:
        raise
    except Exception as fault:
        reason = hub_faults.judge(fault, settings, parsed.repo, client.where, with_token=False)
        raise ModelError(f"{parsed.repo} is not in the catalogue, and {client.where}: {reason}", _WAY_OUT) from None
    size = sum(file.size for file in files if "/" not in file.path and file.path.endswith(".safetensors"))
    return Model(name=parsed.repo, architecture=architecture, family="", weight_files_bytes=size, source=client.where)
