"""Where the time of one step goes: time, bytes and operations of each kind of op against what the machine can do.

A profile is one step of many that were run, the one of median length, so that its rows add up to it. Counts are
program/cost.py's, times those of the native executor's thread 0, waiting for the other threads included. Knows no
command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.bench.steps import StepShape, pages, step
from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue
from octavo.kernels import native
from octavo.models.load import load
from octavo.models.lower import lower
from octavo.models.registry import read_spec
from octavo.program.batch import Batch
from octavo.program.cost import Cost, by_kind, costs, kinds
from octavo.program.cpu import Cpu
from octavo.program.ops import Program

REST = "rest"  # of a step: its list of work, waking the threads, giving them back


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of op over a whole step, or the step itself. `rates` as native.measure gives them."""

    kind: str
    seconds: float
    cost: Cost
    rates: Mapping[str, float]

    @property
    def gb_s(self) -> float:
        """10^9 bytes a second, of those that count."""
        return self.cost.moved / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gop_s(self) -> float:
        """10^9 operations a second."""
        return self.cost.operations / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def bandwidth_share(self) -> float:
        """The time that moving the bytes would take, over the time taken. Above 1: they came from caches."""
        return self.cost.moving(self.rates) / self.seconds if self.seconds else 0.0

    @property
    def peak_share(self) -> float:
        """The time that the operations would take, over the time taken."""
        return self.cost.computing(self.rates) / self.seconds if self.seconds else 0.0

    @property
    def limit_share(self) -> float:
        """The larger of both shares: 1 is as fast as the machine allows."""
        return max(self.bandwidth_share, self.peak_share)

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "kind": self.kind,
            "seconds": self.seconds,
            "bytes_read": self.cost.read,
            "bytes_written": self.cost.written,
            "int8_operations": self.cost.int8,
            "bf16_operations": self.cost.bf16,
            "fp32_operations": self.cost.fp32,
            "gb_s": self.gb_s,
            "gop_s": self.gop_s,
            "bandwidth_share": self.bandwidth_share,
            "peak_share": self.peak_share,
            "limit_share": self.limit_share,
        }


def told(rates: Mapping[str, float]) -> str:
    """What native.measure gave, in words."""
    return (
        f"reads {rates['read_gb_s']:.1f} GB/s, int8 {rates['int8_gop_s']:.0f} Gop/s, int16 "
        f"{rates['int16_gop_s']:.0f}, bfloat16 {rates['bf16_gflop_s']:.0f}, float32 {rates['fp32_gflop_s']:.0f}"
    )


def program_of(
    model: Path,
    *,
    dtype: str,
    quantization: str = "none",
    kv_dtype: str,
    max_len: int,
    progress: Callable[[float], None] | None = None,
) -> Program:
    """A model's program for sequences of up to `max_len` tokens. Raises ModelError."""
    source = open_source(model)
    try:
        spec = read_spec(source)
        weights = load(source, spec, dtype=dtype, quantization=quantization, progress=progress)
    finally:
        source.close()
    return lower(spec, weights, kv_dtype=kv_dtype, max_len=max_len)


def seconds_by_kind(program: Program, times: native.Times) -> dict[str, float]:
    """Time of each kind of op, the rest last: they add up to `times.total`."""
    names = [*kinds(program), "draw"]
    out = dict.fromkeys(by_kind(program, [Cost()] * len(names)), 0.0)
    for kind, seconds in zip(names, [*times.ops, times.draw], strict=True):
        out[kind] += seconds
    return out | {REST: times.total - sum(out.values())}


def rows(program: Program, batch: Batch, times: native.Times, rates: Mapping[str, float]) -> list[Row]:
    """What `times` of one step mean: a row for each kind of op, the rest, and last the whole step, "total"."""
    counted = by_kind(program, costs(program, batch)) | {REST: Cost()}
    spent = seconds_by_kind(program, times)
    out = [Row(kind, spent[kind], cost, rates) for kind, cost in counted.items()]
    return [*out, Row("total", times.total, sum(counted.values(), Cost()), rates)]


def median_step(executor: Cpu, batch: Batch, steps: int) -> native.Times:
    """Run a step `steps` times, and once before; the times of the one of median length."""
    run: Callable[[Batch], object] = executor.run if executor.draws else executor.vectors
    run(batch)
    executor.times()
    taken = []
    for _ in range(steps):
        run(batch)
        taken.append(executor.times())
    return sorted(taken, key=lambda times: times.total)[steps // 2]


def profile(
    program: Program, shape: StepShape, *, threads: int, isa: str, steps: int, memory_bytes: int
) -> tuple[Batch, native.Times]:
    """Times of a step of this shape, with pages of its own. Raises InvalidValue where those do not fit the memory."""
    needed = pages(shape.runs, program.kv.groups)
    size = needed * program.kv.page_bytes
    if size > memory_bytes:
        raise InvalidValue("context", shape.context, f"{size} bytes of keys and values; {memory_bytes} are free")
    batch = step(shape.runs, program.vocab, program.kv.groups)
    executor = Cpu(program, threads, max_tokens=len(batch.ids), isa=isa)
    try:
        executor.allocate(needed)
        assert executor.store is not None
        executor.store.touched()  # else all that was never written is read from one page of zeros
        return batch, median_step(executor, batch, steps)
    finally:
        executor.close()
