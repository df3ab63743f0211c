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

from octavo.bench import picture, record
from octavo.bench.keep import Keep
from octavo.core.config import SchedulerConfig
from octavo.core.errors import EngineFault, InvalidValue, UserError
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams
from octavo.core.status import EngineInfo
from octavo.core.table import columns
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import build_engine, memory_plan
from octavo.engine.limits import cores

STEP_TOKENS = 512
ALONE, BATCH = (512, 128), (128, 64)  # tokens of prompt and answer, if not said
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
GROWN_PROMPT = 32  # tokens of each of many sequences
GROWN_STEPS = 16  # timed at each size
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

    def sized(self, launch: LaunchConfig) -> LaunchConfig:
        """The launch of an engine that takes it, and no more."""
        if self.requests:
            return sized(launch, self.requests, self.prompt + self.tokens)
        return sized(launch, 1, max(self.prompt, self.tokens + 1) + 1, self.prompt)


def sized(launch: LaunchConfig, seqs: int, max_len: int | None, step_tokens: int = 0) -> LaunchConfig:
    """A launch with room for so many sequences of so many tokens, and no prefix cache."""
    step_tokens = max(STEP_TOKENS, seqs, step_tokens)
    scheduler = SchedulerConfig(max_seqs=seqs, max_step_tokens=step_tokens, max_queued=seqs, itl_target_ms=0)
    return replace(launch, max_len=max_len, scheduler=scheduler, cache=replace(launch.cache, prefix_cache=False))


def run(args: argparse.Namespace) -> int:
    """Load, measure by turns, print, keep."""
    asked = args.step
    prompt, tokens = BATCH if asked["requests"] else ALONE
    work = Work(asked["prompt"] or prompt, asked["tokens"] or tokens, asked["requests"] or 0)
    for field in ("runs", "requests"):
        if asked[field] is not None and asked[field] < 1:
            raise InvalidValue(field, asked[field], "an integer of 1 or more")
    keep = Keep(args)
    if asked["form"] is not None:
        return _form(args, work, keep)
    engine, info = build_engine(work.sized(args.launch))
    about = {"model": info.model, "threads": info.threads, "isa": info.isa, "kv_dtype": info.kv_dtype}
    begun = record.begin("offline", about | {"load_seconds": info.load_seconds} | asked)
    try:
        results: dict[str, Any] = turns(engine, info.vocab, work, asked["runs"], asked["against"])
    finally:
        engine.close()
    if asked["growth"]:
        results["growth"] = [*growth(args.launch, [(count, GROWN_PROMPT) for count in SEQUENCES])]
        results["growth"] += growth(args.launch, [(1, context) for context in CONTEXTS])
    whole = record.end(begun, results)
    keep.result(whole, picture.turns)
    print(json.dumps(whole, indent=2) if args.json else show(whole))
    return 0


def _form(args: argparse.Namespace, work: Work, keep: Keep) -> int:
    """With and without a form, in place of all else."""
    from octavo.bench import forms  # it is made of what is below

    asked = args.step
    if asked["against"] or asked["growth"]:
        raise InvalidValue("form", asked["form"], "only without --against and --growth")
    about = {"model": Path(args.launch.model).name, "threads": args.launch.exec.threads or cores(), "isa": ""}
    begun = record.begin("offline", about | asked)
    whole = record.end(begun, forms.turns(args.launch, work, asked["runs"], asked["form"]))
    keep.result(whole, picture.turns)
    print(json.dumps(whole, indent=2) if args.json else show(whole))
    return 0


def turns(engine: Engine, vocab: int, work: Work, runs: int, against: str | None) -> dict[str, Any]:
    """Ours and theirs by turns: every run's figures, the medians, and our medians over theirs."""
    measure = batch if work.requests else alone
    measure(engine, vocab, work, runs)  # not counted: memory is touched, processors wake
    found: dict[str, list[dict[str, float]]] = {who: [] for who in ("octavo", "against")[: 2 if against else 1]}
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
    """When one step of the engine began and ended, seconds."""

    begin: float
    end: float


def finish(engine: Engine, prompts: Sequence[list[int]], tokens: int, grammar: str = "") -> list[Stepped]:
    """Run greedy requests to their ends, which are `tokens` tokens away. The clock starts before the first is added."""
    begin = time.perf_counter()
    add(engine, prompts, tokens, grammar)
    steps = []
    while engine.has_work:
        stepped(engine)
        steps.append(Stepped(begin, time.perf_counter()))
        begin = steps[-1].end
    return steps


def stepped(engine: Engine) -> list[Output]:
    """One step. Raises EngineFault where it fails a request."""
    outputs = engine.step()
    for output in outputs:
        if output.error:
            raise EngineFault(f"request {output.id} failed: {output.error}")
    return outputs


def add(engine: Engine, prompts: Sequence[list[int]], tokens: int, grammar: str = "") -> list[str]:
    """Give the engine greedy requests; their ids."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    names = [f"{number}" for number in range(len(prompts))]
    for name, prompt in zip(names, prompts, strict=True):
        engine.add(Request(id=name, prompt=prompt, sampling=sampling, grammar=grammar, grammar_field="form"))
    return names


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


def growth(launch: LaunchConfig, shapes: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Median times of decoding steps of so many sequences with so many tokens behind them, as far as the model goes."""
    seqs = max(count for count, _ in shapes)
    room = 2 * GROWN_STEPS + seqs  # tokens that are decoded meanwhile, and while the prompts of others are computed
    longest = memory_plan(sized(launch, 1, None)).max_len - room
    fitting = [(count, min(context, longest)) for count, context in shapes if context <= longest + room]
    if not fitting or longest < 1:
        return
    engine, info = build_engine(sized(launch, seqs, max(context for _, context in fitting) + room))
    try:
        for count, context in tqdm(fitting, unit="size", desc="growth", disable=None, leave=False):
            seconds = statistics.median(decoding(engine, info, count, context))
            yield {"sequences": count, "context": context, "seconds": seconds, "tok_s": count / seconds}
    finally:
        engine.close()


def decoding(engine: Engine, info: EngineInfo, count: int, context: int) -> list[float]:
    """Lengths of steps in which all sequences decode: after the last prompt, so the first have decoded some."""
    prompts = np.random.default_rng(count).integers(0, info.vocab, (count, context)).tolist()
    names = add(engine, prompts, info.max_len - context)
    begun: set[str] = set()
    while len(begun) < count:
        begun |= {output.id for output in stepped(engine) if output.tokens}
    times = []
    for _ in range(GROWN_STEPS):
        began = time.perf_counter()
        stepped(engine)
        times.append(time.perf_counter() - began)
    for name in names:
        engine.abort(name)
    return times


def show(whole: dict[str, Any]) -> str:
    """The record as text."""
    settings, results = whole["settings"], whole["results"]
    work = results["work"]
    what = f"{work['requests']} requests at once, {work['prompt']} tokens in, {work['tokens']} out"
    if "prefill_tok_s" in next(iter(results["medians"].values())):
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
    if "form" in results:
        overhead, gain = results["form"]["overhead"], results["form"]["gain"]
        lines += ["", f"a step with masks takes {overhead:+.1%}; forced tokens: {gain:.2f} times as fast"]
    if "growth" in results:
        grown = [("sequences", "context", "ms a step", "tokens/s")]
        for row in results["growth"]:
            shown = (f"{row['seconds'] * 1e3:.2f}", f"{row['tok_s']:.1f}")
            grown.append((str(row["sequences"]), str(row["context"]), *shown))
        lines += ["", columns(grown, right=range(4), indent=2)]
    return "\n".join([*lines, "", record.title(whole)])
