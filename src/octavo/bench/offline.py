"""Prefill and decode of one sequence, in process, as llama-bench counts them; and against llama-bench, by turns.

usage: python -m octavo.bench.offline MODEL.gguf [--threads 2] [--prompt 512] [--tokens 128] [--runs 5]
                                      [--against 'llama-bench -m MODEL.gguf -t 2']

Figures are tokens a second, of the whole engine: scheduling, drawing and all Python included. With --against, each run
of ours is followed by one of theirs (A B A B), and medians are given with their ratio. Knows no server.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.request import Request, SamplingParams
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import build_engine


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def finish(engine: Engine, name: str, prompt: list[int], tokens: int) -> list[float]:
    """Run one greedy request; the time after each step, the first being the start."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    engine.add(Request(id=name, prompt=prompt, sampling=sampling))
    times = [time.perf_counter()]
    while engine.has_work:
        engine.step()
        times.append(time.perf_counter())
    return times


def ours(engine: Engine, vocab: int, prompt: int, tokens: int, seed: int) -> tuple[float, float]:
    """Prefill and decode, in tokens a second, on random tokens that no cached prefix holds."""
    random = np.random.default_rng(seed)
    times = finish(engine, f"prefill{seed}", random.integers(0, vocab, prompt).tolist(), 1)
    prefill = prompt / (times[-1] - times[0])
    times = finish(engine, f"decode{seed}", random.integers(0, vocab, 1).tolist(), tokens + 1)
    return prefill, tokens / (times[-1] - times[1])


def theirs(command: str, prompt: int, tokens: int) -> tuple[float, float]:
    """One run of llama-bench."""
    arguments = [*shlex.split(command), "-p", str(prompt), "-n", str(tokens), "-r", "1", "-o", "json"]
    rows = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    rates = {row["n_prompt"] > 0: float(row["avg_ts"]) for row in rows}
    return rates[True], rates[False]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m octavo.bench.offline", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .gguf file or a folder")
    parser.add_argument("--threads", type=int, default=None, help="threads that compute (default: all cores)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of prefill (default: 512)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of decode (default: 128)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--against", metavar="COMMAND", help="llama-bench with its model and threads")
    args = parser.parse_args(argv)
    launch = LaunchConfig(
        model=args.model,
        scheduler=SchedulerConfig(max_seqs=1, max_step_tokens=args.prompt),
        cache=CacheConfig(prefix_cache=False),
        exec=ExecConfig(threads=args.threads),
    )
    engine, info = build_engine(launch)
    print(f"{processor()}, {info.threads} threads, {info.isa}; {info.model}; {args.runs} runs, medians")
    ours(engine, info.vocab, args.prompt, args.tokens, seed=10**6)  # warm up
    rows: dict[str, list[tuple[float, float]]] = {"octavo": [], "llama-bench": []}
    for seed in range(args.runs):
        rows["octavo"].append(ours(engine, info.vocab, args.prompt, args.tokens, seed))
        if args.against:
            rows["llama-bench"].append(theirs(args.against, args.prompt, args.tokens))
    engine.close()
    for part, what in ((0, f"prefill {args.prompt}"), (1, f"decode {args.tokens}")):
        medians = {who: statistics.median(run[part] for run in runs) for who, runs in rows.items() if runs}
        shown = ", ".join(f"{who} {rate:.0f}" for who, rate in medians.items())
        ratio = f", ratio {medians['octavo'] / medians['llama-bench']:.2f}" if args.against else ""
        print(f"{what}: {shown} tokens/s{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
