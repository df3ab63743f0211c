"""Engines over tiny models, of the size a test asks for: the pool in pages, not in bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from octavo.cache.pool import BlockPool
from octavo.checkpoint.source import open_source
from octavo.core.config import SchedulerConfig
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams
from octavo.core.status import PoolingInfo
from octavo.engine.engine import Engine
from octavo.models.load import load
from octavo.models.lower import lower
from octavo.models.pooler import pooling_info, pooling_of
from octavo.models.registry import read_spec
from octavo.program.cpu import Cpu
from octavo.program.ops import Attend, Program
from octavo.program.pooling import Pooling
from octavo.program.reference import Reference
from octavo.sched.cost import Costs, StepCost
from octavo.sched.scheduler import Scheduler
from octavo.worker.grammars import Grammars
from octavo.worker.processors import Processors
from octavo.worker.worker import Worker


def program_of(path: Path, *, max_len: int = 256, exact: bool = False) -> Program:
    """exact: all in float32, pages too, so that only the order of additions is left to differ."""
    source = open_source(path)
    try:
        spec = read_spec(source)
        weights = load(source, spec, dtype="float32" if exact else "auto")
        return lower(spec, weights, kv_dtype="float32" if exact else "bfloat16", max_len=max_len, exact=exact)
    finally:
        source.close()


def pooled_of(path: Path, *, max_len: int = 256, exact: bool = True, **changes) -> tuple[Program, Pooling, PoolingInfo]:
    """A model that pools, with what it gives. changes: of its spec's pooler."""
    source = open_source(path)
    try:
        spec = read_spec(source, "pooling")
        if changes:
            spec = replace(spec, pooler=replace(spec.pooler, **changes))
        weights = load(source, spec, dtype="float32" if exact else "auto")
    finally:
        source.close()
    kv_dtype, longest = "float32" if exact else "bfloat16", min(max_len, spec.max_len)
    program = lower(spec, weights, kv_dtype=kv_dtype, max_len=longest, exact=exact)
    return program, pooling_of(spec, weights), pooling_info(spec)


def engine_of(
    program: Program,
    executor: str,
    *,
    pooling: Pooling | None = None,
    info: PoolingInfo | None = None,
    pages: int = 128,
    seqs: int = 16,
    step_tokens: int = 512,
    threads: int = 2,
    prefix_cache: bool = True,
    max_queued: int = 1024,
    itl_target_ms: float = 0,
    give_back: bool = True,
    grammars: Grammars | None = None,
    jump: bool = True,
    processors: Processors | None = None,
) -> Engine:
    """itl_target_ms: of steps whose cost is known from nothing but their measure.

    give_back False: no page behind a window is given back before its sequence ends.
    """
    runs = Cpu(program, threads, max_tokens=step_tokens) if executor == "cpu" else Reference(program)
    runs.allocate(pages)
    config = SchedulerConfig(
        max_seqs=seqs,
        max_step_tokens=step_tokens,
        max_len=program.max_len,
        max_queued=max_queued,
        itl_target_ms=itl_target_ms,
    )
    cost = StepCost(Costs(1e-5, 1e-5, 1e-5, 1e-8, 1e-8))
    worker = Worker(
        runs,
        slots=seqs,
        max_len=program.max_len,
        vocab=program.vocab,
        groups=program.kv.groups,
        grammars=grammars,
        jump=jump,
        pooling=pooling,
        processors=processors,
    )
    whole = not all(op.causal for op in program.ops if isinstance(op, Attend))
    windows = program.kv.windows if give_back else (0,) * program.kv.groups
    scheduler = Scheduler(config, BlockPool(pages, prefix_cache and not whole), cost, windows, whole=whole)
    return Engine(scheduler, worker, vocab=program.vocab, pooling=info)


SAMPLERS: dict[int, dict[str, Any]] = {  # of the mixed requests by number
    1: {"mirostat": 2, "mirostat_tau": 3.0},
    2: {"typical_p": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.05, "dry_multiplier": 0.8},
    3: {"samplers": ["penalties", "top_k", "top_p", "temperature"], "dynatemp_range": 0.5, "repeat_last_n": 16},
    6: {"mirostat": 1, "top_n_sigma": 2.0},
}


def mixed_requests(
    count: int = 8, *, vocab: int = 256, seed: int = 0, longest: int = 150, tokens: int = 24, ends: bool = True
) -> list[Request]:
    """Requests that differ in everything that may change an answer; half of the prompts share a beginning.

    ends: token 2 ends a text. When it comes is the kernels' rounding; without, every text has its full length.
    """
    random = np.random.default_rng(seed)
    shared = random.integers(3, vocab, longest).tolist()
    requests, eos = [], [2] if ends else []
    for number in range(count):
        length = int(random.integers(1, longest))
        prompt = shared[:length] if number % 2 else random.integers(3, vocab, length).tolist()
        sampling = SamplingParams(
            temperature=(0.0, 1.0, 0.8, 1.2)[number % 4],
            top_k=(0, 20)[number % 2],
            top_p=(1.0, 0.9, 0.95)[number % 3],
            min_p=(0.0, 0.0, 0.02)[number % 3],
            presence_penalty=(0.0, 0.5)[number % 2],
            frequency_penalty=(0.0, 0.0, 0.3)[number % 3],
            repetition_penalty=(1.0, 1.0, 1.0, 1.2)[number % 4],
            logit_bias=(None, {5: 2.0, 9: -100.0})[number % 2],
            min_tokens=(0, 10)[number % 2],
            max_tokens=tokens + number,
            logprobs=(None, 3)[number % 2],
            prompt_logprobs=2 if number % 4 == 1 else None,
            **SAMPLERS.get(number, {}),
        )
        requests.append(Request(id=f"r{number}", prompt=prompt, sampling=sampling, eos_ids=eos, seed=seed + number))
    return requests


def gathered(engine: Engine, requests: list[Request]) -> dict[str, Output]:
    """All outputs of each request, joined into one; the engine is checked after each step."""
    for request in requests:
        engine.add(request)
    return finished(engine, requests)


def finished(engine: Engine, requests: list[Request]) -> dict[str, Output]:
    """As `gathered`, of requests that the engine has and that have given nothing yet."""
    whole = {request.id: Output(id=request.id) for request in requests}
    while engine.has_work:
        for output in engine.step():
            total = whole[output.id]
            assert total.finish is None, "an output after the last"
            total.tokens += output.tokens
            total.logprobs += output.logprobs
            total.prompt_logprobs += output.prompt_logprobs
            total.cached = max(total.cached, output.cached)
            total.vector = output.vector or total.vector
            total.finish, total.stop_reason, total.error = output.finish, output.stop_reason, output.error
        engine.check()
    assert all(output.finish is not None for output in whole.values())
    return whole


def assert_same(found: dict[str, Output], wanted: dict[str, Output], executor: str) -> None:
    """Equal answers: with the native executor bit by bit, else with log-probabilities that are close."""
    assert found.keys() == wanted.keys()
    for name, got in found.items():
        expected = wanted[name]
        assert got.tokens == expected.tokens, name
        assert (got.finish, got.stop_reason, got.error) == (expected.finish, expected.stop_reason, expected.error)
        for ours, theirs in ((got.logprobs, expected.logprobs), (got.prompt_logprobs, expected.prompt_logprobs)):
            assert [entry.token for entry in ours] == [entry.token for entry in theirs]
            if executor == "cpu":
                assert ours == theirs, name
            else:
                np.testing.assert_allclose(
                    [entry.logprob for entry in ours], [entry.logprob for entry in theirs], atol=1e-4
                )
