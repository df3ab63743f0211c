"""`octavo bench offline --form`: what it costs that answers follow a schema, and what its forced tokens gain.

The same batch by turns (A B C A B C): free; with every token drawn from what the schema allows; and with forced tokens
appended without a draw, as served. All answers have the same number of tokens, so the schema must not end before. Two
engines of one model, for the second and the third; the first runs on the second's. Knows no server.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from octavo.bench.offline import Work, finish, middle
from octavo.core.errors import InvalidValue, UserError
from octavo.core.structured import StructuredOutputsParams
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import build_engine
from octavo.text.grammar import grammar_of

FREE, DRAWN, SERVED = "free", "drawn", "served"


def turns(launch: LaunchConfig, work: Work, runs: int, form: str) -> dict[str, Any]:
    """Every run's figures, the medians, and of the runs side by side `overhead` and `gain`, medians of their ratios.

    overhead: more time that a step takes with masks, as a share. gain: how often as fast forced tokens make the batch.
    """
    if not work.requests:
        raise InvalidValue("form", form, "only together with --requests")
    grammar = compact(form)
    drawing, info = build_engine(work.sized(launch), jump=False)
    serving, _ = build_engine(work.sized(launch))
    kinds = {FREE: (drawing, ""), DRAWN: (drawing, grammar), SERVED: (serving, grammar)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    try:
        for number in tqdm(range(-1, runs), unit="run", disable=None, leave=False):
            for name, (engine, followed) in kinds.items():
                figures = batch(engine, info.vocab, work, max(number, 0), followed)
                if number >= 0:  # the first is not counted: memory is touched, processors wake, the schema is compiled
                    found[name].append(figures)
    finally:
        drawing.close()
        serving.close()
    seconds = {name: [row["seconds"] for row in rows] for name, rows in found.items()}
    shares = [drawn / free - 1 for drawn, free in zip(seconds[DRAWN], seconds[FREE], strict=True)]
    gains = [drawn / served for drawn, served in zip(seconds[DRAWN], seconds[SERVED], strict=True)]
    return {
        "work": {"prompt": work.prompt, "tokens": work.tokens, "requests": work.requests},
        "runs": found,
        "medians": {name: middle(rows) for name, rows in found.items()},
        "ratios": {},
        "form": {"overhead": statistics.median(shares), "gain": statistics.median(gains)},
    }


def compact(path: str) -> str:
    """The grammar of the schema in a file, without white space. Raises UserError."""
    try:
        schema = Path(path).read_text()
    except OSError as error:
        raise UserError(f"--form: {error}") from None
    return grammar_of(StructuredOutputsParams(json=schema, disable_any_whitespace=True))


def batch(engine: Engine, vocab: int, work: Work, seed: int, grammar: str) -> dict[str, float]:
    """All requests from the first one's arrival to the last token."""
    prompts = np.random.default_rng(seed).integers(0, vocab, (work.requests, work.prompt)).tolist()
    before = engine.stats().generated_tokens
    steps = finish(engine, prompts, work.tokens, grammar)
    tokens = engine.stats().generated_tokens - before
    if tokens < work.requests * work.tokens:
        raise UserError(f"--form: answers ended after {tokens} tokens in all; it must not end before --tokens")
    seconds = steps[-1].end - steps[0].begin
    return {
        "output_tok_s": tokens / seconds,
        "seconds": seconds,
        "steps": len(steps),
        "step_ms": 1e3 * statistics.median(step.end - step.begin for step in steps),
    }
