"""Serving engines side by side, measured by a client none of them wrote for itself: `vllm bench serve`.

usage: python benchmarks/peers/served.py --vllm VENV/bin/vllm --tokenizer FOLDER --out FOLDER --rounds 3
                                         --engine octavo=http://127.0.0.1:8001 --engine llama=http://127.0.0.1:8002

The servers are up already, each with the same weights under its own URL. Within a round every engine runs once at every
concurrency, in an order that turns from round to round, while the others are idle; so a slow minute of the machine
meets them all. Keeps every JSON the client wrote, and prints medians over the rounds and their ratios to the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path

FIGURES = ("output_throughput", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_itl_ms", "failed")


def model_of(url: str) -> str:
    """The first model a server offers."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
        return str(json.load(answer)["data"][0]["id"])


def measure(args: argparse.Namespace, name: str, url: str, concurrency: int, round_: int) -> dict[str, float]:
    """One run of the client against one server."""
    file = args.out / f"{name}-c{concurrency}-{round_}.json"
    prompts = max(args.least_prompts, args.prompts_per_client * concurrency)
    command = [args.vllm, "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"]
    command += ["--model", model_of(url), "--tokenizer", args.tokenizer, "--dataset-name", "random", "--ignore-eos"]
    command += ["--random-input-len", str(args.input_len), "--random-output-len", str(args.output_len)]
    command += [
        "--num-prompts",
        str(prompts),
        "--max-concurrency",
        str(concurrency),
        "--seed",
        str(1000 * round_ + concurrency),
    ]  # no prompt twice: prefix caches would know it
    command += ["--num-warmups", str(min(concurrency, 4)), "--percentile-metrics", "ttft,tpot,itl,e2el"]
    command += ["--save-result", "--result-filename", str(file), "--disable-tqdm", "--temperature", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: the client failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(file.read_text())
    return found


def main() -> int:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vllm", required=True, help="the command of an installed vLLM, used as the client")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer all engines share")
    parser.add_argument("--engine", action="append", required=True, metavar="NAME=URL")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input-len", type=int, default=256)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--prompts-per-client", type=int, default=4)
    parser.add_argument("--least-prompts", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    engines = dict(engine.split("=", 1) for engine in args.engine)
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for round_ in range(args.rounds):
        names = list(engines)
        names = names[round_ % len(names) :] + names[: round_ % len(names)]
        for concurrency in args.concurrency:
            for name in names:
                run = measure(args, name, engines[name], concurrency, round_)
                found.setdefault((name, concurrency), []).append(run)
                shown = ", ".join(f"{figure} {run[figure]:.1f}" for figure in FIGURES)
                print(f"round {round_}, {concurrency} at once, {name}: {shown}", flush=True)
    first = next(iter(engines))
    print(f"\nmedians of {args.rounds} rounds; in brackets, {first} against it")
    for concurrency in args.concurrency:
        for name in engines:
            medians = {f: statistics.median(run[f] for run in found[name, concurrency]) for f in FIGURES}
            ours = {f: statistics.median(run[f] for run in found[first, concurrency]) for f in FIGURES}
            cells = [
                f"{f} {v:.1f}" + (f" [{ours[f] / v:.2f}]" if v and name != first else "") for f, v in medians.items()
            ]
            print(f"{concurrency:3} at once, {name:12} " + ", ".join(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
