"""From settings to a running engine: the one place that sees all settings, and splits them.

A launch is the same in the engine process, in `LLM` and in `octavo plan`, which stops after the headers. Knows no
socket and no text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.cache.pool import BlockPool
from octavo.checkpoint.source import Source, open_source
from octavo.core.errors import InvalidValue
from octavo.core.layout import PAGE
from octavo.core.status import EngineInfo
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.limits import cores, memory_limit
from octavo.engine.memory import MemoryPlan, fit
from octavo.models.load import Weights, footprint, load
from octavo.models.lower import lower
from octavo.models.packed import load_kept
from octavo.models.pooler import pooling_info, pooling_of
from octavo.models.registry import read_spec
from octavo.models.spec import Conv, ModelSpec
from octavo.program.cpu import Cpu
from octavo.program.executor import Executor
from octavo.program.ops import Program
from octavo.program.pooling import Pooling
from octavo.program.reference import Reference
from octavo.sched.cost import Costs, StepCost
from octavo.sched.scheduler import Scheduler
from octavo.worker.grammars import Grammars
from octavo.worker.processors import Processors, installed
from octavo.worker.worker import Worker

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

Progress = Callable[[float, str], None]  # share done from 0 to 1, and what is being done

MULTIPLICATIONS = 5e10  # and additions, that a core does in a second, at least
BANDWIDTH = 1e10  # bytes of memory read in a second, at least


def guess(spec: ModelSpec, weights: int, threads: int) -> Costs:
    """What steps may cost before one was measured: `weights` bytes are read once, each row multiplies with all of them.

    On the slow side, so that the first steps do not break a target.
    """
    row = key = 0
    for layer in spec.layers:
        row += spec.width * 3 * layer.hidden
        if isinstance(mixer := layer.mixer, Conv):
            row += spec.width * 4 * spec.width
            continue
        queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
        row += spec.width * (2 * queries + 2 * keys)
        key += 2 * queries
    one = 1 / (threads * MULTIPLICATIONS)
    head = (spec.vocab if spec.head else 1) * spec.width
    return Costs(weights / BANDWIDTH, row * one, head * one, key * one, key * one)


def memory_plan(launch: LaunchConfig) -> MemoryPlan:
    """What this launch would take, from headers alone. Raises ModelError and InvalidValue as the launch would."""
    source = open_source(Path(launch.model))
    try:
        return _plan(launch, source, read_spec(source, launch.exec.runner))
    finally:
        source.close()


def build_engine(
    launch: LaunchConfig, progress: Progress | None = None, *, jump: bool = True
) -> tuple[Engine, EngineInfo]:
    """Load the model and make ready to serve; all memory of the plan is taken and touched. jump: see Worker.

    Raises ModelError for a model that cannot be served and InvalidValue for a setting that cannot be met, both before
    any memory is taken where headers tell; MemoryError where the plan was too hopeful.
    """
    began = time.monotonic()
    report = progress or (lambda share, what: None)
    source = open_source(Path(launch.model))
    try:
        spec = read_spec(source, launch.exec.runner)
        plan = _plan(launch, source, spec)
        report(0.0, "packing the weights")  # not before: what the headers forbid is said without a word of progress
        weights = _weights(launch, source, spec, lambda share: report(0.9 * share, "packing the weights"))
    finally:
        source.close()
    report(0.9, "binding the weights")
    program = lower(spec, weights, kv_dtype=launch.cache.kv_dtype, max_len=plan.max_len)
    pooling = pooling_of(spec, weights)
    del weights
    threads = launch.exec.threads or cores()
    executor = _executor(launch, program, threads)
    report(0.95, "taking the memory for keys and values")
    executor.allocate(plan.pages)
    scheduler = _scheduler(launch, spec, plan, pooling, threads)
    seqs = launch.scheduler.max_seqs
    size: dict[str, int] = {"slots": seqs, "max_len": plan.max_len, "vocab": spec.vocab, "groups": len(plan.windows)}
    grammars = Grammars(lambda: _tokenizer(launch), spec.vocab, tuple(spec.eos_ids), most=seqs, tried=True)
    processors = Processors(installed(), spec.vocab)
    worker = Worker(executor, **size, pooling=pooling, grammars=grammars, processors=processors, jump=jump)
    info = EngineInfo(
        model=launch.name or Path(launch.model).name,
        max_len=plan.max_len,
        vocab=spec.vocab,
        eos_ids=list(spec.eos_ids),
        bos_id=spec.bos_id,
        pages=plan.pages,
        page=PAGE,
        groups=len(plan.windows),
        sequence_pages=plan.sequence_pages,
        kv_dtype=launch.cache.kv_dtype,
        executor=launch.exec.executor,
        isa=getattr(executor, "isa", ""),
        threads=threads,
        load_seconds=time.monotonic() - began,
        memory=plan.by_category(),
        pooling=pooling_info(spec),
        logits_processors=sorted(worker.processors.calls),
    )
    report(1.0, "ready")
    return Engine(scheduler, worker, vocab=spec.vocab, pooling=info.pooling), info


def _scheduler(
    launch: LaunchConfig, spec: ModelSpec, plan: MemoryPlan, pooling: Pooling | None, threads: int
) -> Scheduler:
    config = replace(launch.scheduler, max_len=plan.max_len)
    cost = StepCost(guess(spec, plan.weights, threads))
    # What is kept of a prefix are keys and values, not its tokens' vectors.
    reuse = launch.cache.prefix_cache and spec.causal and (pooling is None or pooling.kind == "last")
    return Scheduler(config, BlockPool(plan.pages, reuse), cost, plan.windows, whole=not spec.causal)


def _tokenizer(launch: LaunchConfig) -> Tokenizer | None:
    """The model's tokenizer, which the engine needs for grammars only."""
    from octavo.text.tokenizer import load_tokenizer

    with open_source(Path(launch.model)) as source:
        return load_tokenizer(source)


def _weights(launch: LaunchConfig, source: Source, spec: ModelSpec, progress: Callable[[float], None]) -> Weights:
    dtype, quantization = launch.exec.dtype, launch.exec.quantization
    if launch.packed_dir is None:
        return load(source, spec, dtype=dtype, quantization=quantization, progress=progress)
    return load_kept(source, spec, Path(launch.packed_dir), dtype=dtype, quantization=quantization, progress=progress)


def _plan(launch: LaunchConfig, source: Source, spec: ModelSpec) -> MemoryPlan:
    return fit(
        spec,
        sum(footprint(source, spec, launch.exec.dtype, launch.exec.quantization).values()),
        max_len=launch.max_len,
        scheduler=launch.scheduler,
        cache=launch.cache,
        executor=launch.exec,
        limit=memory_limit(),
    )


def _executor(launch: LaunchConfig, program: Program, threads: int) -> Executor:
    if launch.exec.executor == "reference":
        return Reference(program)
    if launch.exec.executor == "cpu":
        return Cpu(program, threads, max_tokens=launch.scheduler.max_step_tokens)
    raise InvalidValue("executor", launch.exec.executor, "cpu or reference")
