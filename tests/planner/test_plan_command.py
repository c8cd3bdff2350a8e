"""`infbox plan` as people and programs meet it, the shipped presets, and the numbers that the documents repeat."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infbox.catalogue import instance_type
from infbox.cli import main
from infbox.errors import ModelError, PresetError
from infbox.planner import Plan, plan_preset, plan_values
from infbox.planner.presets import find_model, role_defaults
from infbox.preset import load_hierarchy, load_preset

ROOT = Path(__file__).resolve().parents[2]
INFBOX = ROOT / ".venv/bin/infbox"
PRESETS = load_hierarchy(ROOT).names
NUMBERS = re.compile(r"<!-- numbers: infbox plan ([^>]*?) -->\n(.*?)<!-- end -->", re.DOTALL)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["plan", "--root", str(ROOT), *arguments])
    out, err = capsys.readouterr()
    return status, out + err


# --- presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes_on_the_machine_it_declares(name: str) -> None:
    found = plan_preset(ROOT, name)
    assert found.refusals == ()
    assert found.fits
    assert found.checked


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_that_names_an_instance_type_is_made_for_its_gpus_and_memory(name: str) -> None:
    values = role_defaults(ROOT) | load_preset(ROOT, name).values
    if values["hardware_aws_instance_type"]:
        there = instance_type(values["hardware_aws_instance_type"])
        assert there.gpus == values["hardware_gpus"]
        assert there.ram_gib >= values["hardware_ram_gib"]


def test_every_preset_names_the_parser_that_its_model_needs() -> None:
    for name in PRESETS:
        values = role_defaults(ROOT) | load_preset(ROOT, name).values
        parser = find_model(values["model_source"]).tool_call_parser
        assert values["vllm_tool_call_parser"] in ("", parser), name


@pytest.mark.parametrize(
    ("name", "arguments", "tokens"),
    [
        ("dev32", {}, 85_000),  # one 48 GB GPU
        ("dev32", {"gpus": "1xRTX3090"}, 8_000),  # 24 GB works
        ("dev32", {"gpus": "1xRTX4090"}, 8_000),
        ("cpu", {}, 46_592),
    ],
)
def test_about_so_many_tokens_of_kv_remain(name: str, arguments: dict[str, Any], tokens: int) -> None:
    found = plan_preset(ROOT, name, **arguments)
    assert found.fits
    assert found.kv_tokens == pytest.approx(tokens, rel=0.08)


def test_a_24_gb_card_works_and_says_what_remains() -> None:
    found = plan_preset(ROOT, "dev32", gpus="1xRTX3090")
    assert found.setup is not None
    assert found.setup.context < 8192
    assert any("32,768 tokens does not fit: 7,680 are assumed" in note for note in found.notes)
    assert any("about 8k tokens of KV remain" in note for note in found.notes)
    assert not plan_preset(ROOT, "dev32", gpus="1xRTX3090", context=32768).fits


def test_from_dev32_to_prod480_is_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "dev32")[0] == said(capsys, "prod480")[0] == 0


def test_two_engines_share_the_card_of_disagg8() -> None:
    found = plan_preset(ROOT, "disagg8")
    assert found.setup is not None
    assert 2 * found.setup.utilization <= 0.9
    assert found.full_contexts >= 1


# --- the command


def test_the_table_is_for_a_newcomer(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = said(capsys, "dev32")
    assert status == 0
    for words in ("Qwen2.5-Coder-32B-Instruct-AWQ", "1xL40S", "weights", "KV cache", "tokens that fit", "84,496",
                  "longest context", "from NVMe", "fits:"):  # fmt: skip
        assert words in out
    assert max(map(len, out.splitlines())) <= 120


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = said(capsys, "prod480", "--json")
    found = json.loads(out)
    assert (status, found["fits"], found["checked"], found["refusals"]) == (0, True, True, [])
    assert (found["gpus"], found["tensor_parallel_size"], found["enable_expert_parallel"]) == ("8xH100", 8, True)
    assert found["kv_bytes_per_token"] == 253_952
    assert found["kv_tokens"] == found["kv_blocks"] * found["kv_block_tokens"]
    parts = found["per_gpu"]
    taken = sum(parts[f"{name}_bytes"] for name in ("weights", "activations", "cuda_graphs", "outside_torch", "kv"))
    assert taken == parts["share_bytes"] < parts["memory_bytes"]


def test_a_refusal_is_status_2_with_reason_and_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = said(capsys, "dev32", "--gpus", "1xT4")
    assert status == 2
    assert "refused:  18.0 GiB of weights" in out
    assert "instead:  take 4xT4" in out
    assert "none" in out.split("= KV cache")[1].splitlines()[0]
    status, out = said(capsys, "dev32", "--gpus", "1xT4", "--json")
    refusal = json.loads(out)["refusals"][0]
    assert (status, set(refusal), refusal["kind"]) == (2, {"kind", "reason", "instead"}, "weights")


def test_lines_to_add_are_printed_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    _, out = said(capsys, "dev32", "--context", "65536")
    lines = [line[10:] for line in out.splitlines() if line.startswith(" " * 10)]
    assert "    max_position_embeddings: 65536" in lines
    assert "      rope_type: yarn" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dev23"], "did you mean `dev32`"),
        (["dev32", "--gpus", "1xRTX409"], "did you mean RTX4090"),
        (["dev32", "--gpus", "4xA100"], "A100-40 or A100-80"),
        (["dev32", "--context", "0"], "a context of 0 tokens is none"),
        (["dev32", "--context", "-5"], "a context of -5 tokens is none"),
        (["dev32", "--context", "99999999999999"], "is none"),
        (["dev32", "--model", "/nowhere"], "/nowhere is not there"),
        (["dev32", "--model", ""], ""),
        (["../../etc/passwd"], "is no preset's name"),
    ],
)
def test_what_cannot_be_planned_is_status_1_with_a_hint(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, out = said(capsys, *arguments)
    if arguments[-1]:
        assert status == 1
        assert "hint: " in out
    assert words in out


def test_a_number_that_is_none_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "dev32", "--context", "long"])
    assert ended.value.code == 2


def test_other_gpus_change_the_tensor_parallelism_and_say_so() -> None:
    found = plan_preset(ROOT, "dev32", gpus="4xL40S")
    assert found.setup is not None
    assert found.setup.parallel.tensor == 4
    assert "tensor parallel 4 is assumed, for 4xL40S" in found.notes
    odd = plan_preset(ROOT, "dev32", gpus="3xL40S")
    assert odd.setup is not None
    assert odd.setup.parallel.tensor == 2  # 40 heads do not divide by 3
    assert any("1 of 3 GPUs stay idle" in note for note in odd.notes)


def test_replicas_stay_replicas_on_other_gpus() -> None:
    found = plan_preset(ROOT, "a6000x2_small", gpus="4xL4", context=8192)
    assert found.setup is not None
    assert (found.setup.parallel.data, found.setup.parallel.tensor) == (4, 1)


def test_another_model_is_a_folder_too(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
              "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256,
              "max_position_embeddings": 131072, "tie_word_embeddings": True}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    for named in (str(tmp_path), f"folder:{tmp_path}"):
        found = plan_preset(ROOT, "dev32", model=named)
        assert found.fits
        assert found.to_json()["kv_bytes_per_token"] == 2 * 16 * 8 * 64 * 2  # Llama 3.2 1B: 32 KB a token


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ModelError) as fault:
        find_model("hf:Qwen/Qwen2.5-Coder-32B-Instruct-AQW", "http://127.0.0.1:9")
    assert "did you mean Qwen/Qwen2.5-Coder-32B-Instruct-AWQ?" in fault.value.hint
    assert "config.json" in fault.value.hint


def test_a_plan_of_values_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it went to the network"))
    values = role_defaults(ROOT) | load_preset(ROOT, "dev32").values
    assert plan_values(values).fits
    assert not plan_values(values | {"model_source": "hf:some/other"}).checked


def test_a_plan_of_values_is_the_plan_of_the_preset() -> None:
    values = role_defaults(ROOT) | load_preset(ROOT, "prod480").values
    one, other = plan_values(values).to_json(), plan_preset(ROOT, "prod480").to_json()
    assert {**one, "preset": "prod480"} == other


def test_there_is_no_such_preset() -> None:
    with pytest.raises(PresetError):
        plan_preset(ROOT, "nothing")


def test_the_command_is_quick_and_loads_nothing_large() -> None:
    program = "import sys; from infbox.cli import main; main(['plan', 'dev32']); print(sorted(sys.modules))"
    done = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", program], capture_output=True, text=True, cwd=ROOT, env={**os.environ}
    )
    assert done.returncode == 0
    loaded = done.stdout.splitlines()[-1]
    for heavy in ("huggingface_hub", "numpy", "starlette", "httpx2", "safetensors"):
        assert f"'{heavy}'" not in loaded


# --- the documents


def row(name: str, found: Plan) -> str:
    """A line of the table of presets."""
    setup, budget = found.setup, found.budget
    assert setup is not None
    assert budget is not None
    parallel = setup.parallel
    spread = [f"tensor {parallel.tensor}"] if parallel.tensor > 1 else []
    spread += [f"{parallel.data} replicas"] if parallel.data > 1 else []
    spread += ["whole experts"] if parallel.experts else []
    cells = [
        f"`{name}`", setup.model.name.rpartition("/")[2], setup.architecture.quantization.name,
        str(setup.gpus or "processor"), ", ".join(spread) or "-", f"{budget.weights / 2**30:.1f}",
        f"{(budget.activations + budget.graphs + budget.outside) / 2**30:.1f}", f"{budget.kv / 2**30:.1f}",
        f"{found.kv_tokens:,}", f"{setup.context:,}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_numbers_in_the_documents_are_the_planners() -> None:
    text = (ROOT / "docs/presets.md").read_text()
    blocks = NUMBERS.findall(text)
    planned: list[str] = []
    for command, shown in blocks:
        rows = [line for line in shown.splitlines() if line.startswith("| `")]
        names = [line.split("`")[1] for line in rows]
        given = command.split()
        gpus = given[given.index("--gpus") + 1] if "--gpus" in given else None
        right = [row(name, plan_preset(ROOT, name, gpus=gpus)) for name in names]
        assert rows == right, "docs/presets.md should have:\n" + "\n".join(right)
        planned += names if gpus is None else []
    assert set(planned) == set(PRESETS)


def test_what_the_documents_say_a_command_prints_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/presets.md").read_text()
    shown = re.findall(r"```console\n\$ infbox plan (.*?)\n(.*?)```", text, re.DOTALL)
    assert shown
    for command, lines in shown:
        _, out = said(capsys, *command.split())
        for line in lines.splitlines():
            assert line == "..." or line in out.splitlines(), f"infbox plan {command} does not print: {line}"


# --- workspaces


def test_a_workspace_gets_its_share_of_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a workspace gets                   5,120  tokens, 0.625 of the context" in said(capsys, "cpu")[1]
    values = role_defaults(ROOT) | load_preset(ROOT, "cpu").values
    assert plan_values(values | {"watcher_context_share": 0.5}).to_json()["workspace_tokens"] == 4096
    assert plan_values(values | {"watcher_workspaces": []}).to_json()["workspace_tokens"] == 0
    with pytest.raises(PresetError, match="`watcher_context_share` is 'half'"):
        plan_values(values | {"watcher_context_share": "half"})
