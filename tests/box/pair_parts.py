"""A small model, LMCache's daemon and an engine of a program's own, and questions to both."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PORT = 5655
JSON = {"Content-Type": "application/json"}
CHUNK_TOKENS = 64
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": True,
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def model(folder: Path) -> Path:
    """A small model with random weights, large enough for what it answers to depend on all that it is asked."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    torch.manual_seed(170318)
    wide, inner, kv = 128, 256, 64
    weights = {"model.embed_tokens.weight": torch.randn(4096, wide), "model.norm.weight": torch.ones(wide)}
    shapes = {
        "self_attn.q_proj": (wide, wide), "self_attn.k_proj": (kv, wide), "self_attn.v_proj": (kv, wide),
        "self_attn.o_proj": (wide, wide), "mlp.gate_proj": (inner, wide), "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
    }  # fmt: skip
    for layer in range(4):
        for name, shape in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape) * 1.5 * shape[1] ** -0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = torch.ones(wide)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def ask(path: Path, method: str, what: str, body: object = None) -> Any:
    connection = Unix(path)
    try:
        connection.request(method, what, json.dumps(body) if body is not None else None, JSON)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{what}: {answer.status}: {text[:500]!r}")
        return json.loads(text) if answer.getheader("content-type") == "application/json" else text.decode()
    finally:
        connection.close()


def metric(path: Path, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = ask(path, "GET", "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " ")))


class Pair:
    """A daemon and an engine that run, and how to ask them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemon, self.engine = folder / "daemon.sock", folder / "engine.sock"
        self.pids: dict[str, int] = {}
        self.start_daemon: Callable[[], None]

    def answer(self, tokens: list[int], salt: str, most: int = 40) -> list[int]:
        """The tokens of an answer."""
        return ask(self.engine, "POST", "/v1/completions", self.question(tokens, salt, most))["choices"][0]["token_ids"]

    @staticmethod
    def question(tokens: list[int], salt: str, most: int = 40) -> dict[str, Any]:
        return {
            "model": "m", "prompt": tokens, "max_tokens": most, "temperature": 0, "cache_salt": salt,
            "return_token_ids": True, "ignore_eos": True, "detokenize": False,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        return ask(self.daemon, "GET", "/infbox/state")

    def wait_until_stored(self) -> None:
        time.sleep(0.5)  # the engine's chunks come to RAM after its answer
        end = time.monotonic() + 30
        while self.state()["storing"] and time.monotonic() < end:
            time.sleep(0.05)

    def forget(self) -> None:
        """What is in the engine's cache and in RAM."""
        self.wait_until_stored()
        ask(self.engine, "POST", "/infbox/reset-prefix-cache")
        drop = self.folder / "drop"
        drop.touch()
        while drop.exists():
            time.sleep(0.02)


@contextmanager
def pair(
    folder: Path,
    *words: str,
    cake: dict[str, object] | None = None,
    beat: float = 1.0,
    given: Path | None = None,
    more: dict[str, str] | None = None,
) -> Iterator[Pair]:
    """Daemon and engine, `words` are more of the engine's; with Cake where its settings are given.

    `given` is a model's folder, instead of the small one; `more` is of the environment of both.
    """
    here, started = Path(__file__).parent, Pair(folder)
    of = given or model(folder / "model")
    (folder / "key").write_bytes(bytes(32))
    (folder / "key").chmod(0o600)
    environment = os.environ | {
        "PYTHONHASHSEED": "0", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "LMCACHE_TRACK_USAGE": "false",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
        "KV_SOCKET": str(started.daemon), "KV_PORT": str(PORT), "KV_L1_GIB": "0.25", "KV_L2_GIB": "0.5",
        "KV_L2_PATH": str(folder / "kv"), "KV_TENANT_GIB": "0", "KV_REDIS_SOCKET": "", "KV_STATE_DIR": str(folder),
        "KV_CHUNK_TOKENS": str(CHUNK_TOKENS), "KV_CONTEXT": "", "KV_MODEL_FILE": str(of / "config.json"),
        **(more or {}),
    }  # fmt: skip
    if "--tensor-parallel-size" in words:  # vLLM binds each worker to a NUMA node of its own, unless it is told
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(core) for core in sorted(os.sched_getaffinity(0))[:2])
    default = "infbox.kv.connector.KeepingConnector" if cake is None else "infbox.cake.connector.CakeConnector"
    connector = environment.get("PAIR_CONNECTOR", default)
    transfer = {
        "kv_connector": connector.rpartition(".")[2], "kv_connector_module_path": connector.rpartition(".")[0],
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "lmcache.mp.host": "127.0.0.1", "lmcache.mp.port": PORT, "lmcache.mp.mp_transfer_mode": "lmcache_driven",
            "lmcache.mp.heartbeat_interval": beat, "lmcache.mp.mq_timeout": 60.0,
            "infbox.kv_socket": str(started.daemon), **(cake or {}),
        },
    }  # fmt: skip
    serve = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(of),
        "--uds", str(started.engine), "--served-model-name", "m", "--dtype", "float32", "--enforce-eager",
        "--skip-tokenizer-init", "--max-model-len", "2048", "--block-size", "32", "--scheduling-policy", "priority",
        "--middleware", "infbox.kv.reset.ResetPrefixCache",
        "--kv-transfer-config", json.dumps(transfer), *words,
    ]  # fmt: skip
    if cake is not None:
        serve += ["--scheduler-cls", "infbox.cake.scheduler.cake_scheduler"]
    logs = Path(os.environ.get("PAIR_LOGS", folder))
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, command: list[str], socket_path: Path, what: str) -> None:
        log = (logs / f"{name}.log").open("ab")
        running.append(
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=here, start_new_session=True)
        )
        started.pids[name] = running[-1].pid
        end = time.monotonic() + 120
        while True:
            try:
                ask(socket_path, "GET", what)
                return
            except (OSError, http.client.HTTPException, RuntimeError):
                if running[-1].poll() is not None or time.monotonic() > end:
                    told = (logs / f"{name}.log").read_text(errors="replace")[-30000:]
                    raise RuntimeError(f"{name} does not come up:\n{told}") from None
                time.sleep(0.2)

    try:
        daemon = [sys.executable, str(here / "pair_daemon.py")]
        started.start_daemon = partial(start, "daemon", daemon, started.daemon, "/healthcheck")
        started.start_daemon()
        start("engine", serve, started.engine, "/health")
        yield started
    finally:
        for process in [each for each in reversed(running) if each.poll() is None]:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        for left in Path("/dev/shm").glob("lmcache_kv_*"):
            if not Path(f"/proc/{left.name.removeprefix('lmcache_kv_').partition('_')[0]}").exists():
                left.unlink(missing_ok=True)


def prompts(chance: random.Random, count: int, pool: int) -> list[list[int]]:
    """So many, of 300 to 1,200 tokens, each a part of one of `pool` texts and some tokens of its own."""
    texts = [[chance.randrange(3, 4096) for _ in range(1200)] for _ in range(pool)]
    return [
        chance.choice(texts)[: chance.randrange(280, 1150)]
        + [chance.randrange(3, 4096) for _ in range(chance.randrange(20, 50))]
        for _ in range(count)
    ]
