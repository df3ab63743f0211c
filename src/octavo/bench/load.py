"""Loading a server: each job when it is due and a place is free, and what came of it.

A closed loop is a limit on what is in flight with everybody due at the start; an open loop has times of arrival and no
limit. With both, who is due and finds no place waits here: that wait is not in the server's times but is reported, or
a server that stalls would slow its own load down unnoticed (coordinated omission). Knows no statistics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import uvloop

from octavo.bench import processes
from octavo.bench.client import Pool, Target, body_of, model_of
from octavo.bench.datasets import Job, jobs
from octavo.bench.stream import Answer
from octavo.bench.workload import Workload
from octavo.core.errors import InvalidValue

Progress = Callable[[int], object]  # is told how many more are done


@dataclass(frozen=True, slots=True)
class Asking:
    """How every request is put: the endpoint, the model's name (None: the server's first), fields of every body."""

    endpoint: str
    model: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def words(self, load: Workload) -> bool:
        """Whether random prompts are words. Raises InvalidValue for a chat of token ids."""
        chat = self.endpoint.endswith("/chat/completions")
        if chat and load.prompt_form == "ids":
            raise InvalidValue("prompt_form", "ids", "words or auto, as messages of a chat are text")
        return chat or load.prompt_form == "words"


@dataclass(slots=True)
class Run:
    """One load, done. Seconds; `began` on the clock of the answers. client_cpu: processor time that we
    took; server_cpu: that the server and its children took, None where it is not a process of ours to see."""

    jobs: list[Job]
    answers: list[Answer]
    began: float
    seconds: float
    client_cpu: float
    model: str
    server_cpu: float | None = None


def measure(target: Target, asking: Asking, load: Workload, seed: tuple[int, ...], warm: bool, told: Progress) -> Run:
    """Run one load, behind its warm-ups if `warm`. Raises UserError where the server cannot be reached at all.

    seed: what makes this run's prompts differ from those of others, so that no cache knows them.
    """
    return uvloop.run(_measure(target, asking, load, seed, warm, told))


async def _measure(
    target: Target, asking: Asking, load: Workload, seed: tuple[int, ...], warm: bool, told: Progress
) -> Run:
    pool = Pool(target)
    try:
        asking = replace(asking, model=asking.model or await model_of(pool))
        if warm and load.warmups:
            plain = replace(load, dataset_name="random", dataset_path=None, trace=None, request_rate=float("inf"))
            await _flight(
                pool, asking, plain, jobs(plain, asking.words(load), (*seed, 1), load.warmups), lambda n: None
            )
        due = jobs(load, asking.words(load), (*seed, 0))
        server = processes.listener(target.host, target.port)
        before = processes.cpu_seconds(server) if server else 0.0
        done = await _flight(pool, asking, load, due, told)
        if server:
            done.server_cpu = processes.cpu_seconds(server) - before
        return done
    finally:
        pool.close()


async def _flight(pool: Pool, asking: Asking, load: Workload, due: list[Job], told: Progress) -> Run:
    """Send all of them when they are due."""
    assert asking.model is not None
    encoder = msgspec.json.Encoder()
    requests = []
    for job in due:
        body = body_of(asking.endpoint, asking.model, job.prompt, {"max_tokens": job.output_len} | asking.more)
        requests.append(pool.target.post(asking.endpoint, encoder.encode(body)))
    answers = [Answer() for _ in due]
    gate = asyncio.Semaphore(load.max_concurrency) if load.max_concurrency else nullcontext()
    cpu, began = time.process_time(), time.perf_counter()

    async def one(request: bytes, answer: Answer) -> None:
        async with gate:
            await pool.stream(request, answer)
        told(1)

    flying = []
    for job, request, answer in zip(due, requests, answers, strict=True):
        answer.arrived = began + job.arrival
        await _until(answer.arrived)
        flying.append(asyncio.ensure_future(one(request, answer)))
    await asyncio.gather(*flying)
    seconds = time.perf_counter() - began
    return Run(due, answers, began, seconds, time.process_time() - cpu, asking.model)


async def _until(moment: float) -> None:
    """Wait for a time of the clock. Not once: the loop counts in whole milliseconds, and may wake before."""
    while (wait := moment - time.perf_counter()) > 0:  # noqa: ASYNC110, time is no event
        await asyncio.sleep(wait)
