"""Schemas that others wrote (tests/data/schemas), and what an engine answers to each: valid, or why not."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import text_vocab
import tiny_llama
from jsonschema.validators import Draft202012Validator, validator_for
from tiny_engine import engine_of, gathered, program_of

from octavo.core.errors import UserError
from octavo.core.request import Request, SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.program.ops import Program
from octavo.text.grammar import grammar_of
from octavo.text.tokenizer import Tokenizer
from octavo.worker.grammars import Grammars

DATA = Path(__file__).parents[1] / "data" / "schemas"
SUITES = ("suite", "schemastore")
VOCAB = 49152
LONGEST = 160  # tokens of an answer


@dataclass
class Counts:
    """compiled and refused count schemas (refused: by reason), the others answers."""

    compiled: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    valid: int = 0
    truncated: int = 0
    wrong: list[str] = field(default_factory=list)
    preemptions: int = 0


def schemas(suite: str) -> list[tuple[str, Any]]:
    """Names and schemas."""
    lines = gzip.decompress((DATA / f"{suite}.jsonl.gz").read_bytes()).decode().splitlines()
    return [tuple(json.loads(line)) for line in lines]


def model(folder: Path) -> tuple[Program, Tokenizer]:
    """Random weights, a real vocabulary."""
    return program_of(tiny_llama.write_folder(folder, vocab=VOCAB)), text_vocab.smollm2()


def closing(tokenizer: Tokenizer, temperature: float) -> dict[int, float]:
    """Biases under which random weights come to an end: towards what closes strings, lists and objects."""
    marks = [token for token in range(VOCAB) if {*tokenizer.token_bytes(token)} & {*b'"}]'}]
    return dict.fromkeys([*tokenizer.eos_ids, *marks][:1000], min(100.0, 8 * max(1.0, temperature)))


def answers(
    made: tuple[Program, Tokenizer], cases: list[tuple[str, Any]], temperature: float, pages: int = 256
) -> Counts:
    """Ask for each schema, half of them with biases (which draw each token) and half without (which jump)."""
    program, tokenizer = made
    grammars = Grammars(lambda: tokenizer, VOCAB, tuple(tokenizer.eos_ids))
    counts, biases = Counts(), closing(tokenizer, temperature)
    asked: dict[str, tuple[str, Any]] = {}
    requests = []
    for number, (name, schema) in enumerate(cases):
        try:
            grammar = grammar_of(StructuredOutputsParams(json=schema, disable_any_whitespace=number % 4 > 1))
            grammars.matcher(grammar, "json")
        except UserError as error:
            counts.refused[str(error).split(": ", 1)[1]] += 1
            continue
        counts.compiled += 1
        asked[str(number)] = (name, schema)
        sampling = SamplingParams(
            temperature=temperature, max_tokens=LONGEST, logit_bias=biases if number % 2 else None
        )
        requests.append(
            Request(
                id=str(number),
                prompt=[9 + number, 7, 5],
                sampling=sampling,
                eos_ids=list(tokenizer.eos_ids),
                seed=number,
                grammar=grammar,
                grammar_field="json",
            )
        )
    engine = engine_of(program, "cpu", pages=pages, grammars=grammars, max_queued=len(requests))
    try:
        outputs = gathered(engine, requests)
        counts.preemptions = engine.stats().preemptions
    finally:
        engine.close()
    for key, output in outputs.items():
        judge(counts, *asked[key], output.finish, output.error, tokenizer.decode(output.tokens))
    return counts


def judge(counts: Counts, name: str, schema: Any, finish: str | None, error: str | None, text: str) -> None:
    """Count one answer."""
    if finish == "length":
        counts.truncated += 1
        return
    why = error or ""
    if finish == "stop":
        try:
            kind = validator_for(schema, default=Draft202012Validator)
            why = "; ".join(
                error.message
                for error in kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(json.loads(text))
            )
        except ValueError as broken:
            why = str(broken)
    if finish == "stop" and not why:
        counts.valid += 1
    else:
        counts.wrong.append(f"{name}: {finish} {text[:100]!r}: {why[:200]}")
