"""What is planned: a preset's variables, read once into one frozen `Setup`.

`vllm_extra_settings` wins over the variables of role vllm, as it does in the engine's own settings file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from infbox.catalogue.config import Architecture
from infbox.catalogue.gpus import Gpus, parse_gpus
from infbox.catalogue.instances import instance_types
from infbox.catalogue.models import Model
from infbox.catalogue.quantization import parse_quantization
from infbox.errors import PresetError
from infbox.planner.memory import BLOCK_TOKENS_CPU, BLOCK_TOKENS_GPU, GIB, Batch, default_batch
from infbox.planner.sizes import Parallel

WIDTHS = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2, "auto": 2}
# RAM of the daemon that keeps KV, beside the KV; measured on a box of preset cpu.
KV_DAEMON_GIB = 0.7
# The engine's setting → (the variable that declares it, its default).
SETTINGS: dict[str, tuple[str, Any]] = {
    "tensor_parallel_size": ("vllm_tensor_parallel_size", 1),
    "pipeline_parallel_size": ("vllm_pipeline_parallel_size", 1),
    "data_parallel_size": ("vllm_data_parallel_size", 1),
    "enable_expert_parallel": ("vllm_enable_expert_parallel", False),
    "gpu_memory_utilization": ("vllm_gpu_memory_utilization", 0.9),
    "dtype": ("vllm_dtype", "auto"),
    "kv_cache_dtype": ("vllm_kv_cache_dtype", "auto"),
    "max_model_len": ("vllm_max_model_len", 8192),
    "enforce_eager": ("vllm_enforce_eager", False),
    "tool_call_parser": ("vllm_tool_call_parser", ""),
    "cpu_offload_gb": ("vllm_cpu_offload_gb", 0),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model, a machine, and how the engine is to run on it. `gpus` None is the processor; sizes are in the names."""

    model: Model
    gpus: Gpus | None
    nodes: int = 1
    ram_gib: int = 4
    parallel: Parallel = field(default_factory=Parallel)
    utilization: float = 0.9
    dtype: str = "auto"
    kv_dtype: str = "auto"
    context: int = 8192
    eager: bool = False
    offload_gib: float = 0.0  # weights of each GPU that stay in RAM
    sequences: int = 0  # 0: vLLM's default
    batch_tokens: int = 0
    block_tokens: int = 0
    cpu_kv_gib: int = 2
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of the model's config.json
    online_fp8: bool = False  # a 16-bit model, quantised at loading
    tool_call_parser: str = ""
    disk_gib: int = 0  # for models and KV
    kept_ram_gib: float = 0.0  # of RAM for KV that outlives the engine: the daemon's and Redis'
    kept_disk_gib: float = 0.0
    workspace_share: float = 0.0  # of the context

    @property
    def architecture(self) -> Architecture:
        """The model's shape, as it is loaded."""
        return self.model.architecture

    @property
    def bytes_16(self) -> int:
        """Bytes of a weight or an activation that is not quantised."""
        dtype = self.architecture.dtype if self.dtype == "auto" else self.dtype
        if self.dtype == "auto" and self.gpus is not None:
            return 2  # vLLM loads float32 models in 16 bits, unless told otherwise
        return WIDTHS.get(dtype, 2)

    @property
    def kv_bytes(self) -> int:
        """Bytes of a value in the KV cache: those of the model's dtype, 16 bits at least."""
        return WIDTHS.get(self.kv_dtype, 2) if self.kv_dtype != "auto" else self.bytes_16

    @property
    def workspace_tokens(self) -> int:
        """Tokens of the context that a workspace may take."""
        return int(self.context * self.workspace_share)

    @property
    def kept_ram_bytes(self) -> int:
        """RAM that keeping KV takes, with what the daemon needs itself."""
        return int((self.kept_ram_gib + KV_DAEMON_GIB) * GIB) if self.kept_ram_gib else 0

    @property
    def offload_bytes(self) -> int:
        """Bytes of weights that each GPU may leave in RAM."""
        return int(self.offload_gib * GIB)

    @property
    def block(self) -> int:
        return self.block_tokens or (BLOCK_TOKENS_GPU if self.gpus else BLOCK_TOKENS_CPU)

    @property
    def batch(self) -> Batch:
        """The limits the engine runs with."""
        name, usable = (self.gpus.gpu.name, self.gpus.gpu.usable_bytes) if self.gpus else ("", 0)
        default = default_batch(usable, name)
        return Batch(sequences=self.sequences or default.sequences, tokens=self.batch_tokens or default.tokens)


def read_setup(values: Mapping[str, Any], model: Model) -> Setup:
    """The setup of merged variables.

    Raises:
        PresetError: a value cannot be what it is; names it.
    """
    extra: Any = values.get("vllm_extra_settings") or {}
    if not isinstance(extra, dict):
        raise PresetError(f"`vllm_extra_settings` is {str(extra)[:60]!r}", "write a mapping of settings")
    reader = _Reader(values, cast(dict[str, Any], extra))
    named = reader.text(values.get("hardware_gpus", ""), "hardware_gpus")
    overrides: Any = reader.extra.get("hf_overrides") or {}
    if not isinstance(overrides, dict):
        raise PresetError("`hf_overrides` in `vllm_extra_settings` is no mapping", "write it as config.json has it")
    online = reader.extra.get("quantization") == "fp8" and model.architecture.quantization.is_16_bit
    return Setup(
        model=in_fp8(model) if online else model,
        online_fp8=online,
        gpus=parse_gpus(named) if named else None,
        nodes=reader.count(values.get("hardware_nodes", 1), "hardware_nodes"),
        ram_gib=reader.count(values.get("hardware_ram_gib", 4), "hardware_ram_gib"),
        parallel=Parallel(
            tensor=reader.setting_count("tensor_parallel_size"),
            pipeline=reader.setting_count("pipeline_parallel_size"),
            data=reader.setting_count("data_parallel_size"),
            experts=bool(reader.setting("enable_expert_parallel")),
        ),
        utilization=reader.share(reader.setting("gpu_memory_utilization"), "vllm_gpu_memory_utilization"),
        dtype=reader.text(reader.setting("dtype"), "vllm_dtype"),
        kv_dtype=reader.text(reader.setting("kv_cache_dtype"), "vllm_kv_cache_dtype"),
        context=reader.setting_count("max_model_len"),
        eager=bool(reader.setting("enforce_eager")),
        offload_gib=reader.setting_gib("cpu_offload_gb"),
        sequences=reader.count(reader.extra.get("max_num_seqs", 0), "max_num_seqs", least=0),
        batch_tokens=reader.count(reader.extra.get("max_num_batched_tokens", 0), "max_num_batched_tokens", least=0),
        block_tokens=reader.count(reader.extra.get("block_size", 0), "block_size", least=0),
        cpu_kv_gib=reader.count(values.get("vllm_cpu_kvcache_space_gib", 2), "vllm_cpu_kvcache_space_gib"),
        overrides=cast(dict[str, Any], overrides),
        tool_call_parser=reader.text(reader.setting("tool_call_parser"), "vllm_tool_call_parser"),
        disk_gib=_disk_gib(values, reader),
        kept_ram_gib=reader.gib("lmcache_l1_size_gib") + reader.gib("redis_maxmemory_gib"),
        kept_disk_gib=reader.gib("lmcache_l2_size_gib"),
        workspace_share=reader.share(values.get("watcher_context_share", 0.625), "watcher_context_share")
        if values.get("watcher_workspaces")
        else 0.0,
    )


def in_fp8(model: Model) -> Model:
    """A model with FP8 weights, a scale a matrix: what vLLM's `quantization: fp8` makes of one in 16 bits."""
    quantised = replace(model.architecture, quantization=parse_quantization({"quant_method": "fp8"}, model.name))
    return replace(model, architecture=quantised)


def _disk_gib(values: Mapping[str, Any], reader: "_Reader") -> int:
    """The largest disk for KV: the data volume, or the instance's own NVMe."""
    volume = reader.count(values.get("storage_data_size_gib", 0) or 0, "storage_data_size_gib", least=0)
    instance = instance_types().get(str(values.get("hardware_aws_instance_type", "")))
    return max(volume, int(instance.nvme_total_gb * 1e9 / 2**30)) if instance else volume


@dataclass(frozen=True)
class _Reader:
    """Values by name, with errors that name them."""

    values: Mapping[str, Any]
    extra: Mapping[str, Any]

    def setting(self, name: str) -> Any:
        """A setting of the engine: from `vllm_extra_settings`, its variable, or the default."""
        variable, default = SETTINGS[name]
        return self.extra[name] if name in self.extra else self.values.get(variable, default)

    def setting_count(self, name: str) -> int:
        return self.count(self.setting(name), name if name in self.extra else SETTINGS[name][0])

    def count(self, value: object, name: str, *, least: int = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**40:
            raise PresetError(f"`{name}` is {str(value)[:60]!r}", f"write a whole number from {least} up")
        return value

    def gib(self, name: str) -> float:
        """A size that is 0 where there is none."""
        return self._gib(self.values.get(name, 0), name)

    def setting_gib(self, name: str) -> float:
        return self._gib(self.setting(name), name if name in self.extra else SETTINGS[name][0])

    def _gib(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**20:
            raise PresetError(f"`{name}` is {str(value)[:60]!r}", "write GiB, as in 16 or 0.5; 0 for none")
        return float(value)

    def share(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise PresetError(f"`{name}` is {str(value)[:60]!r}", "write a share, as in 0.9")
        return float(value)

    def text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise PresetError(f"`{name}` is {str(value)[:60]!r}", "write text")
        return value
