"""What can be set, as small frozen values. Composed in engine/launch.py and split there: nobody receives the whole."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How steps are filled.

    max_seqs: sequences that run at once. max_step_tokens: tokens computed in one step. max_len: prompt and output of
    one sequence together. max_queued: requests that may wait. policy: "fcfs" or "priority" (lower numbers first).
    itl_target_ms: how long a step should take at most where somebody waits for the next token, so that prompts do not
    stall answers; 0: as long as it takes.
    """

    max_seqs: int = 64
    max_step_tokens: int = 512
    max_len: int = 8192
    max_queued: int = 1024
    policy: str = "fcfs"
    itl_target_ms: float = 100.0

    def __post_init__(self) -> None:
        for field in ("max_seqs", "max_step_tokens", "max_len"):
            if getattr(self, field) < 1:
                raise InvalidValue(field, getattr(self, field), "an integer of 1 or more")
        if self.max_queued < 0:
            raise InvalidValue("max_queued", self.max_queued, "an integer of 0 or more")
        if self.max_step_tokens < self.max_seqs:
            raise InvalidValue("max_step_tokens", self.max_step_tokens, f"at least max_seqs, which is {self.max_seqs}")
        if self.policy not in ("fcfs", "priority"):
            raise InvalidValue("policy", self.policy, "fcfs or priority")
        if not 0 <= self.itl_target_ms < float("inf"):
            raise InvalidValue("itl_target_ms", self.itl_target_ms, "milliseconds, or 0 for no target")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The KV memory. memory_bytes: budget of the whole process, None: what the machine or cgroup leaves."""

    memory_bytes: int | None = None
    kv_dtype: str = "bfloat16"
    prefix_cache: bool = True


@dataclass(frozen=True, slots=True)
class ExecConfig:
    """Who computes: executor "cpu" (native) or "reference" (numpy); threads None: one for each core we may use."""

    executor: str = "cpu"
    threads: int | None = None
    # of unquantized weights: "bfloat16", "float32", or "auto": bfloat16, of encoders finer, see models/load.py
    dtype: str = "auto"
    quantization: str = "none"  # of unquantized weights at load: "none", "int16", "int8" or "int4"
    runner: str = "auto"  # what the model does: "generate", "pooling" (vectors), or what it was made for


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """What `octavo quantize` makes: codes, and how they are found.

    scheme: "int4" or "int8". group: most inputs that share a scale, 0: 64 for int4, 128 for int8. symmetric: codes
    without zero points. gptq, awq: what calibration text, where there is some, is used for (quant/compensate.py,
    quant/rescale.py), with this damping.
    """

    scheme: str = "int4"
    group: int = 0
    symmetric: bool = True
    gptq: bool = True
    awq: bool = True
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.scheme not in ("int4", "int8"):
            raise InvalidValue("scheme", self.scheme, "int4 or int8")
        if self.group not in (0, 32, 64, 96, 128):
            raise InvalidValue("group", self.group, "32, 64, 96 or 128")
        if not self.symmetric and self.scheme != "int4":
            raise InvalidValue("symmetric", self.symmetric, "zero points are for int4; int8 gains nothing by them")
        if not 0 < self.damping <= 1:
            raise InvalidValue("damping", self.damping, "above 0, at most 1")
