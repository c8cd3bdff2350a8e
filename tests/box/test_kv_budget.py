"""The planner's numbers against the running engine's own: bytes of a token, blocks, tokens, the longest context."""

import json
import re

import yaml
from live_box import LiveBox

from infbox.catalogue.models import folder_model
from infbox.planner.checks import budget
from infbox.planner.plan import kv_tokens
from infbox.planner.setup import Setup, read_setup
from infbox.planner.sizes import kv_bytes_a_token

CONFIG = """
import json, re
settings = open("/etc/infbox/vllm.yml").read()
folder = re.search(r"^model: (.*)$", settings, re.MULTILINE)[1]
environment = dict(
    line.rstrip().split("=", 1) for line in open("/etc/infbox/vllm.env") if "=" in line and not line.startswith("#")
)
print(json.dumps([settings, open(folder + "/config.json").read(), environment.get("VLLM_CPU_KVCACHE_SPACE", "")]))
"""


def engine_says(box: LiveBox) -> dict[str, str]:
    """The labels of vllm:cache_config_info."""
    lines = box.ask_engine("GET", "/metrics").splitlines()
    (line,) = [line for line in lines if line.startswith("vllm:cache_config_info{")]
    return dict(re.findall(r'(\w+)="([^"]*)"', line))


def planned(box: LiveBox, folder) -> Setup:
    """The setup of the box: its model's config.json, its engine's settings."""
    settings, config, space = box.python(CONFIG)
    (folder / "config.json").write_text(config)
    engine = yaml.safe_load(settings)
    values = {
        "vllm_cpu_kvcache_space_gib": int(space.strip('"') or 2),
        "vllm_dtype": engine["dtype"],
        "vllm_max_model_len": engine["max_model_len"],
        "hardware_ram_gib": 64,
    }
    return read_setup(values, folder_model(folder))


def test_blocks_and_tokens_planned_are_those_of_the_engine(box: LiveBox, tmp_path):
    setup, engine = planned(box, tmp_path), engine_says(box)
    found = budget(setup)
    assert found.layout.block_tokens == int(engine["block_size"])
    assert found.blocks == int(engine["num_gpu_blocks"])
    assert kv_tokens(setup, found) == int(engine["kv_cache_size_tokens"])


def test_the_bytes_of_a_token_planned_are_those_of_the_engine(box: LiveBox, tmp_path):
    setup, engine = planned(box, tmp_path), engine_says(box)
    blocks, tokens = int(engine["num_gpu_blocks"]), int(engine["block_size"])
    a_token = kv_bytes_a_token(setup.architecture, setup.kv_bytes)
    space = int(engine["kv_cache_memory_bytes"])
    assert blocks == space // (a_token * tokens)
    assert space - blocks * tokens * a_token < a_token * tokens  # not one block more


def test_full_contexts_at_a_time_are_what_the_engine_counts(box: LiveBox, tmp_path):
    setup = planned(box, tmp_path)
    contexts = kv_tokens(setup, budget(setup)) / setup.context
    assert round(contexts, 4) == round(float(engine_says(box)["kv_cache_max_concurrency"]), 4)


def test_the_engine_takes_the_context_planned_and_no_more(box: LiveBox, tmp_path):
    models = json.loads(box.ask_engine("GET", "/v1/models"))["data"]
    assert models[0]["max_model_len"] == planned(box, tmp_path).context
