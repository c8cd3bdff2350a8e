"""Plans of presets: a preset's values over the roles' defaults, and the changes that the command line asks for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infbox.catalogue.gpus import Gpus, parse_gpus
from infbox.catalogue.models import Model, catalogue_model, catalogue_names, folder_model
from infbox.errors import ModelError, PresetError
from infbox.planner.advice import Change, with_context
from infbox.planner.plan import Plan, make_plan, unchecked
from infbox.planner.setup import Setup, read_setup
from infbox.preset import load_preset
from infbox.strict_yaml import read_mapping
from infbox.variables import jinja_in, nearest_name


def plan_preset(
    root: Path, name: str, *, gpus: str | None = None, model: str | None = None, context: int | None = None
) -> Plan:
    """Plan the preset `name` of the checkout `root`, with other GPUs, another model or another context where given.

    A model that is neither in the catalogue nor a folder is read from the hub. On other GPUs, where the preset's
    context is all that does not fit, the plan is for the longest that does, and a note says so.

    Raises:
        PresetError: there is no such preset or GPU, or a value cannot be planned.
        ModelError: the model's configuration cannot be had, or not planned.
    """
    values = role_defaults(root) | load_preset(root, name).values
    source = model or values.get("model_source", "")
    setup = read_setup(values, find_model(str(source), str(values.get("model_hub_endpoint") or "")))
    assumed: tuple[str, ...] = ()
    if gpus is not None:
        setup, assumed = on_gpus(setup, parse_gpus(gpus))
    if model is not None and setup.model.tool_call_parser:
        setup = replace(setup, tool_call_parser=setup.model.tool_call_parser)
    if context is None and gpus is not None:
        setup, lowered = _shorter(setup)
        assumed += lowered
    if context is not None:
        if not 1 <= context < 2**31:
            raise PresetError(f"a context of {context} tokens is none", "write a whole number of tokens, as in 32768")
        setup = replace(setup, context=context)
    return make_plan(setup, name, assumed)


def plan_values(values: Mapping[str, Any]) -> Plan:
    """Plan a host's merged variables, the roles' defaults included. No network is used.

    A model that is neither in the catalogue nor a folder of this machine cannot be looked at: the plan then has
    `checked` False, `fits` True and a note that begins with `not checked:`.

    Raises:
        PresetError: a value cannot be planned.
        ModelError: the model's folder has a configuration that cannot be planned.
    """
    source = str(values.get("model_source") or "")
    found = catalogue_model(source)
    if found is None and source.startswith("folder:") and Path(source.removeprefix("folder:")).is_dir():
        found = folder_model(Path(source.removeprefix("folder:")))
    if found is None:
        return unchecked(f"the model {source or '(none)'} is not in the catalogue, nor a folder of this machine")
    return make_plan(read_setup(values, found))


def role_defaults(root: Path) -> dict[str, Any]:
    """The defaults of all roles that are plain values; what Jinja makes is not for a planner."""
    defaults: dict[str, Any] = {}
    for path in sorted(root.glob("roles/*/defaults/main.yml")):
        try:
            values = read_mapping(path).values
        except PresetError as fault:
            if "is empty" in fault.message:
                continue
            raise
        defaults |= {name: value for name, value in values.items() if jinja_in(value) is None}
    return defaults


def find_model(source: str, endpoint: str = "") -> Model:
    """The model that `model_source` or `--model` names.

    Raises:
        ModelError: it cannot be had.
    """
    if not source:
        raise ModelError("there is no `model_source` to plan", "set it in the preset, or name one with --model")
    if found := catalogue_model(source):
        return found
    folder = source.removeprefix("folder:")
    if source.startswith(("folder:", "/", "./", "../")) or Path(folder).is_dir():
        return folder_model(Path(folder))
    if source.startswith("pypi:"):
        raise ModelError(f"{source} is not in the catalogue", "plan the folder that `infbox model fetch` makes of it")
    from infbox.planner.hub import hub_model

    try:
        return hub_model(source, endpoint)
    except ModelError as fault:
        nearest = nearest_name(source.removeprefix("hf:"), list(catalogue_names()), cutoff=0.7)
        hint = f"did you mean {nearest}? Else: {fault.hint}" if nearest else fault.hint
        raise ModelError(fault.message, hint) from None


def _shorter(setup: Setup) -> tuple[Setup, tuple[str, ...]]:
    """The setup with the context that fits, and what was assumed."""
    lowered = with_context(Change(setup, "", "context"))
    if lowered is None:
        return setup, ()
    told = f"the preset's context of {setup.context:,} tokens does not fit: {lowered.setup.context:,} are assumed"
    return lowered.setup, (f"{told}; {lowered.how}",)


def on_gpus(setup: Setup, gpus: Gpus) -> tuple[Setup, tuple[str, ...]]:
    """The setup on other GPUs, and what was assumed.

    With as many GPUs nothing else changes. With more or fewer, replicas of one GPU each stay that; else tensor
    parallelism takes the most of them that the attention heads divide by.
    """
    before = setup.gpus.count if setup.gpus else 0
    setup = replace(setup, gpus=gpus)
    if gpus.count == before:
        return setup, ()
    parallel = setup.parallel
    if parallel.data > 1 and parallel.tensor == parallel.pipeline == 1:
        spread = replace(parallel, data=gpus.count * setup.nodes)
        return replace(setup, parallel=spread), (f"{spread.data} replicas are assumed, one a GPU",)
    tensor = next(size for size in range(gpus.count, 0, -1) if setup.architecture.heads % size == 0)
    spread = replace(parallel, tensor=tensor, pipeline=max(1, min(parallel.pipeline, setup.nodes)), data=1)
    if spread == parallel:
        return setup, ()
    return replace(setup, parallel=spread), (f"tensor parallel {tensor} is assumed, for {gpus}",)
