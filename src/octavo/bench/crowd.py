"""Decode of one sequence while other processes keep the processors busy, in process.

usage: python -m octavo.bench.crowd MODEL.gguf [--threads 2] [--competitors 0,1,2,4] [--seconds 2] [--rounds 5]

Each round runs every number of competitors once, so that what else the machine does falls on all alike; medians over
rounds are given. A competitor is a process that computes without end, pinned nowhere. Printed: tokens a second; the
share of the rate without competitors; the share of what is fair, which is that rate times the processors that T threads
among T + K equals would have, min(1, C / (T + K)) each, over those they have alone; processor time of the engine for
each second, and tokens for each second of it: what waiting by spinning costs. Knows no server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from octavo.bench.offline import add, sized, stepped
from octavo.core.config import ExecConfig
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import build_engine

BUSY = "while True: pass"
CONTEXT = 1024  # a sequence that reaches it is followed by a new one


@dataclass(frozen=True)
class Decoded:
    """What one stretch of time gave."""

    tokens: int
    seconds: float
    processor_seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@contextmanager
def competitors(count: int) -> Iterator[None]:
    """`count` busy processes, ended at the end."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.2 if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def decode(engine: Engine, seconds: float) -> Decoded:
    """Greedy decode of one sequence after another for so long."""
    tokens, start, before = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        if not engine.has_work:
            names = add(engine, [[1]], CONTEXT - 1)
        stepped(engine)
        tokens += 1
    result = Decoded(tokens, time.perf_counter() - start, time.process_time() - before)
    for name in names:
        engine.abort(name)
    return result


def fair(threads: int, busy: int, cores: int) -> float:
    """What of the processors it has alone an engine would have among equals."""
    return min(1.0, cores / (threads + busy)) / min(1.0, cores / threads)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m octavo.bench.crowd", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .gguf file or a folder")
    parser.add_argument("--threads", type=int, default=None, help="threads that compute (default: all cores)")
    parser.add_argument("--competitors", default="0,1,2,4", help="numbers of busy processes (default: 0,1,2,4)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    args = parser.parse_args(argv)
    crowds = [int(count) for count in args.competitors.split(",")]
    launch = LaunchConfig(model=args.model, exec=ExecConfig(threads=args.threads))
    engine, info = build_engine(sized(launch, 1, CONTEXT))
    cores = len(os.sched_getaffinity(0))
    print(f"{info.model}, {info.threads} threads on {cores} processors, {info.isa}; {args.rounds} rounds, medians")
    decode(engine, args.seconds)
    found: dict[int, list[Decoded]] = {count: [] for count in crowds}
    for _ in range(args.rounds):
        for count in crowds:
            with competitors(count):
                found[count].append(decode(engine, args.seconds))
    engine.close()
    alone = statistics.median(one.rate for one in found[crowds[0]])
    for count, runs in found.items():
        rate = statistics.median(one.rate for one in runs)
        busy = statistics.median(one.processor_seconds / one.seconds for one in runs)
        of_fair = rate / alone / fair(info.threads, count, cores) * fair(info.threads, crowds[0], cores)
        print(
            f"{count} competitors: {rate:.1f} tokens/s, {rate / alone:.0%} of alone, {of_fair:.0%} of fair; "
            f"{busy:.2f} processors, {rate / busy:.1f} tokens for each second of one"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
