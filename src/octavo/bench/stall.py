"""What clients that are answered feel when a long prompt arrives: the times between their tokens, in process.

usage: python -m octavo.bench.stall MODEL.gguf [--threads 2] [--clients 8] [--prompt 8000] [--targets 0 100]

For each inter-token target (milliseconds, 0: none) an engine decodes for the clients; then the long prompt arrives, and
a little later a short one. Gaps between the tokens of each client are pooled over the time until the long prompt's
first token, the gap in which it arrived and the one in which it ended included. The targets take turns, each with a new
engine that has yet to learn what its steps cost, so that a machine that is slower for a while is slower for all. Knows
no server: a client of one sees the sending, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.request import Request, SamplingParams
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import build_engine
from octavo.engine.machine import cpu_name

CONTEXT = 128  # tokens of each client's prompt
SHORT = 256  # tokens of the short prompt
QUIET = 30  # steps before the long prompt arrives


@dataclass
class Felt:
    """Seconds, pooled over rounds. quiet: gaps before the long prompt came; gaps: while it was computed."""

    quiet: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)  # to the first token of the long prompt
    short: list[float] = field(default_factory=list)  # and of the short one


class Clients:
    """Requests of one engine, and when their tokens came."""

    def __init__(self, engine: Engine, vocab: int, seed: int) -> None:
        self._engine = engine
        self._random = np.random.default_rng(seed)
        self._vocab = vocab
        self._name = f"{seed}:"
        self.times: dict[str, list[float]] = {}

    def add(self, length: int, tokens: int) -> str:
        """A greedy request of random tokens; the first of its times is that of its arrival."""
        name = f"{self._name}{len(self.times)}"
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        self._engine.add(
            Request(id=name, prompt=self._random.integers(0, self._vocab, length).tolist(), sampling=sampling)
        )
        self.times[name] = [time.perf_counter()]
        return name

    def step(self) -> None:
        """One step."""
        outputs = self._engine.step()
        now = time.perf_counter()
        for output in outputs:
            self.times[output.id] += [now] * len(output.tokens)

    def gaps(self, names: list[str], since: int) -> list[float]:
        """Times between tokens, from each request's token `since` on."""
        return [b - a for name in names for a, b in pairwise(self.times[name][since:])]


def felt(engine: Engine, vocab: int, *, clients: int, prompt: int, seed: int, into: Felt) -> None:
    """One round."""
    many = Clients(engine, vocab, seed)
    names = [many.add(CONTEXT, 10**6) for _ in range(clients)]
    while min(len(many.times[name]) for name in names) < 2:
        many.step()
    for _ in range(QUIET):
        many.step()
    begun = {name: len(many.times[name]) for name in names}
    into.quiet += [gap for name in names for gap in many.gaps([name], begun[name] - QUIET)]
    long = many.add(prompt, 1)
    for _ in range(2):
        many.step()
    short = many.add(SHORT, 1)
    while min(len(many.times[name]) for name in (long, short)) < 2:
        many.step()
    into.gaps += [gap for name in names for gap in many.gaps([name], begun[name] - 1)]
    into.long.append(many.times[long][1] - many.times[long][0])
    into.short.append(many.times[short][1] - many.times[short][0])
    for name in names:
        engine.abort(name)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m octavo.bench.stall", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .gguf file or a folder")
    parser.add_argument("--threads", type=int, default=None, help="threads that compute (default: all cores)")
    parser.add_argument("--clients", type=int, default=8, help="that decode (default: 8)")
    parser.add_argument("--prompt", type=int, default=8000, help="tokens of the long prompt (default: 8000)")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.0, 100.0], help="ms, 0: none (default: 0 100)")
    parser.add_argument("--rounds", type=int, default=1, help="of all targets by turns (default: 1)")
    args = parser.parse_args(argv)
    rows = {target: Felt() for target in args.targets}
    for seed in range(args.rounds):
        for target, into in rows.items():
            engine, info = build_engine(launch(args, target))
            if not seed and target == args.targets[0]:
                print(f"{cpu_name()}, {info.threads} threads, {info.isa}; {info.model}; {args.clients} clients")
            felt(engine, info.vocab, clients=args.clients, prompt=args.prompt, seed=seed, into=into)
            engine.close()
    print("target ms | quiet P50 | gaps P50 | P99 | max ms | s to first token of the long prompt | of the short one")
    for target, into in rows.items():
        quiet, (middle, high, most) = median(into.quiet), np.percentile(into.gaps, (50, 99, 100))
        gaps = " | ".join(f"{1000 * value:.0f}" for value in (quiet, middle, high, most))
        print(f"{target or 'none'} | {gaps} | {median(into.long):.2f} | {median(into.short):.2f}")
    return 0


def launch(args: argparse.Namespace, target: float) -> LaunchConfig:
    """An engine with room for all at once."""
    return LaunchConfig(
        model=args.model,
        max_len=max(args.prompt, SHORT) + 8,
        scheduler=SchedulerConfig(max_seqs=args.clients + 2, itl_target_ms=target),
        cache=CacheConfig(prefix_cache=False),
        exec=ExecConfig(threads=args.threads),
    )


if __name__ == "__main__":
    sys.exit(main())
