"""`octavo bench offline`: the engine in this process, by turns with another one if asked, and how its steps grow.

One sequence, its prefill and its decode apart, as llama-bench counts them; or a batch of requests that are all there at
the start. Figures are tokens a second of the whole engine: scheduling, drawing and all Python included, loading not.
With --against, each run of ours is followed by one of theirs (A B A B), and medians are given with their ratio. Prompts
are random tokens that no cached prefix holds. Knows no server.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from octavo.bench import record
from octavo.core.config import SchedulerConfig
from octavo.core.errors import InvalidValue, UserError
from octavo.core.request import Request, SamplingParams
from octavo.core.status import EngineInfo
from octavo.core.table import columns
from octavo.engine.engine import Engine
from octavo.engine.launch import LaunchConfig, build_engine

STEP_TOKENS = 512
ALONE, BATCH = (512, 128), (128, 64)  # tokens of prompt and answer, if not said
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
GROWN_PROMPT, GROWN_TOKENS = 32, 16  # of each of many sequences; tokens decoded at each size
THEIR_FIGURE = "output_tokens_per_second"
WORDS = {
    "prefill_tok_s": "prefill",
    "decode_tok_s": "decode",
    "output_tok_s": "output",
    "total_tok_s": "prompts and output",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run does. requests 0: one sequence, prefill and decode apart."""

    prompt: int
    tokens: int
    requests: int = 0

    def __post_init__(self) -> None:
        for field in ("prompt", "tokens"):
            if getattr(self, field) < 1:
                raise InvalidValue(field, getattr(self, field), "an integer of 1 or more")

    def sized(self, launch: LaunchConfig, most: int) -> LaunchConfig:
        """The launch of an engine that takes it, with at least `most` sequences at once."""
        seqs = max(1, self.requests, most)
        step_tokens = max(STEP_TOKENS, seqs, self.prompt if not self.requests else 0)
        scheduler = SchedulerConfig(max_seqs=seqs, max_step_tokens=step_tokens, max_queued=seqs)
        return replace(launch, scheduler=scheduler, cache=replace(launch.cache, prefix_cache=False))


def run(args: argparse.Namespace) -> int:
    """Load, measure by turns, print, keep."""
    asked = args.step
    prompt, tokens = BATCH if asked["requests"] else ALONE
    work = Work(asked["prompt"] or prompt, asked["tokens"] or tokens, asked["requests"] or 0)
    for field in ("runs", "requests"):
        if asked[field] is not None and asked[field] < 1:
            raise InvalidValue(field, asked[field], "an integer of 1 or more")
    engine, info = build_engine(work.sized(args.launch, max(SEQUENCES) if asked["growth"] else 0))
    about = {"model": info.model, "threads": info.threads, "isa": info.isa, "kv_dtype": info.kv_dtype}
    begun = record.begin("offline", about | {"load_seconds": info.load_seconds} | asked)
    try:
        results: dict[str, Any] = turns(engine, info.vocab, work, asked["runs"], asked["against"])
        if asked["growth"]:
            results["growth"] = list(growth(engine, info))
    finally:
        engine.close()
    whole = record.end(begun, results)
    print(json.dumps(whole, indent=2) if args.json else show(whole))
    if args.record["out"]:
        record.write(whole, Path(args.record["out"]))
    return 0


def turns(engine: Engine, vocab: int, work: Work, runs: int, against: str | None) -> dict[str, Any]:
    """Ours and theirs by turns: every run's figures, the medians, and our medians over theirs."""
    measure = batch if work.requests else alone
    measure(engine, vocab, work, runs)  # not counted: memory is touched, processors wake
    found: dict[str, list[dict[str, float]]] = {"octavo": []} | ({"against": []} if against else {})
    for number in tqdm(range(runs), unit="run", disable=None, leave=False):
        found["octavo"].append(measure(engine, vocab, work, number))
        if against:
            found["against"].append(theirs(against, work))
    medians = {who: middle(rows) for who, rows in found.items()}
    ratios = {
        name: medians["octavo"][name] / rate for name, rate in medians.get("against", {}).items() if name in WORDS
    }
    work_done = {"prompt": work.prompt, "tokens": work.tokens, "requests": work.requests or 1}
    return {"work": work_done, "runs": found, "medians": medians, "ratios": ratios}


def middle(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def alone(engine: Engine, vocab: int, work: Work, seed: int) -> dict[str, float]:
    """Prefill of a prompt to its first token; decode behind a prompt of one token, which does not count."""
    random = np.random.default_rng(seed)
    times = finish(engine, [random.integers(0, vocab, work.prompt).tolist()], 1)
    prefill = work.prompt / (times[-1].end - times[0].begin)
    times = finish(engine, [random.integers(0, vocab, 1).tolist()], work.tokens + 1)
    return {"prefill_tok_s": prefill, "decode_tok_s": work.tokens / (times[-1].end - times[0].end)}


def batch(engine: Engine, vocab: int, work: Work, seed: int) -> dict[str, float]:
    """All requests from the first one's arrival to the last token."""
    prompts = np.random.default_rng(seed).integers(0, vocab, (work.requests, work.prompt)).tolist()
    steps = finish(engine, prompts, work.tokens)
    seconds = steps[-1].end - steps[0].begin
    output = work.requests * work.tokens
    return {
        "output_tok_s": output / seconds,
        "total_tok_s": (output + work.requests * work.prompt) / seconds,
        "seconds": seconds,
        "steps": len(steps),
    }


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step of the engine: when it began and ended, seconds, and how many sequences got a token."""

    begin: float
    end: float
    sequences: int


def finish(engine: Engine, prompts: Sequence[list[int]], tokens: int) -> list[Stepped]:
    """Run greedy requests to their ends, which are `tokens` tokens away. The clock starts before the first is added."""
    begin = time.perf_counter()
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(Request(id=f"{begin}-{number}", prompt=prompt, sampling=sampling))
    steps = []
    while engine.has_work:
        outputs = engine.step()
        failed = [output.error for output in outputs if output.error]
        if failed:
            raise UserError(f"the engine failed a request: {failed[0]}")
        end = time.perf_counter()
        steps.append(Stepped(begin, end, sum(bool(output.tokens) for output in outputs)))
        begin = end
    return steps


def theirs(command: str, work: Work) -> dict[str, float]:
    """One run of another engine. Raises UserError where it does not end well or prints something else."""
    words = shlex.split(command)
    if work.requests:
        for name in ("requests", "prompt", "tokens"):
            words = [word.replace(f"{{{name}}}", str(getattr(work, name))) for word in words]
    else:
        words += ["-p", str(work.prompt), "-n", str(work.tokens), "-r", "1", "-o", "json"]
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return batch_figures(done.stdout) if work.requests else llama_bench_figures(done.stdout)
    except OSError as error:
        raise UserError(f"--against: {words[0]} does not start: {error}") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["without a word"])[-1]
        raise UserError(f"--against: {words[0]} ended with {error.returncode}: {last}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--against: {words[0]} printed no figures: {done.stdout[-200:]!r}") from None


def llama_bench_figures(printed: str) -> dict[str, float]:
    """Of the JSON that llama-bench prints. Raises ValueError, KeyError or TypeError for anything else."""
    rates = {row["n_prompt"] > 0: float(row["avg_ts"]) for row in json.loads(printed)}
    return {"prefill_tok_s": rates[True], "decode_tok_s": rates[False]}


def batch_figures(printed: str) -> dict[str, float]:
    """Of the last line that is a JSON object. Raises ValueError, KeyError or TypeError for anything else."""
    found = json.loads(next((line for line in reversed(printed.splitlines()) if line.startswith("{")), ""))
    figures = {"output_tok_s": float(found[THEIR_FIGURE])}
    if "total_tokens_per_second" in found:
        figures["total_tok_s"] = float(found["total_tokens_per_second"])
    return figures


def growth(engine: Engine, info: EngineInfo) -> Iterator[dict[str, Any]]:
    """Median times of decoding steps: of more and more short sequences, and of one longer and longer one."""
    rng = np.random.default_rng(0)
    shapes = [(count, GROWN_PROMPT) for count in SEQUENCES]
    shapes += [(1, context - GROWN_TOKENS // 2) for context in CONTEXTS]
    fitting = [(count, prompt) for count, prompt in shapes if prompt + GROWN_TOKENS <= info.max_len]
    for count, prompt in tqdm(fitting, unit="size", desc="growth", disable=None, leave=False):
        steps = finish(engine, rng.integers(0, info.vocab, (count, prompt)).tolist(), GROWN_TOKENS)
        decoding = [after.end - after.begin for after in steps if after.sequences == count][1:]
        seconds = statistics.median(decoding)
        yield {"sequences": count, "context": prompt + GROWN_TOKENS // 2, "seconds": seconds, "tok_s": count / seconds}


def show(whole: dict[str, Any]) -> str:
    """The record as text."""
    settings, results = whole["settings"], whole["results"]
    work = results["work"]
    what = f"{work['requests']} requests at once, {work['prompt']} tokens in, {work['tokens']} out"
    if "prefill_tok_s" in results["medians"]["octavo"]:
        what = f"one sequence, prefill of {work['prompt']} tokens, decode of {work['tokens']}"
    lines = [
        f"{settings['model']}, {settings['threads']} threads, {settings['isa']}: {what}; medians of {settings['runs']}"
    ]
    head = ("tokens/s", *results["medians"], *(["ratio"] if results["ratios"] else []))
    rows = [head]
    for name, word in WORDS.items():
        rates = [f"{medians[name]:.1f}" for medians in results["medians"].values() if name in medians]
        ratio = [f"{results['ratios'][name]:.2f}"] if name in results["ratios"] else []
        if rates:
            rows.append((word, *[*rates, *ratio, "", ""][: len(head) - 1]))
    lines.append(columns(rows, right=range(1, len(head)), indent=2))
    if "growth" in results:
        grown = [("sequences", "context", "ms a step", "tokens/s")]
        for row in results["growth"]:
            shown = (f"{row['seconds'] * 1e3:.2f}", f"{row['tok_s']:.1f}")
            grown.append((str(row["sequences"]), str(row["context"]), *shown))
        lines += ["", columns(grown, right=range(4), indent=2)]
    return "\n".join([*lines, "", record.title(whole)])
