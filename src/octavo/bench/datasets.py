"""Prompts, drawn from a seed: random ones, ones that share a beginning, lines of a file, and what a trace describes.

Invariant: the same workload and the same seed give the same jobs, other seeds share nothing that a prefix cache would
hold, but for what the data set means to be shared. Knows no tokenizer: a prompt of words has about one token for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from octavo.bench.arrivals import arrivals, stretched
from octavo.bench.workload import Workload
from octavo.core.errors import InvalidValue

TRACE_BLOCK = 512  # tokens that one of a trace's hash_ids stands for; source: the traces of Mooncake
_WORDS = """
about after again air all also and animal another answer any are ask away back because before began below between big
book both boy but call came can car change children city close come could country cut day did different does done down
each earth eat end enough even every eye face family far farm father feet few find first follow food for found from
girl give good great group grow had hand hard has have head hear help her here high him his home house how idea just
keep kind know land large last late learn leave left let letter life light like line list little live long look made
make man many mean men might mile more most mother move much music must name near need never new next night not now
number off often old once one only open other our out over own page paper part people picture place plant play point
press read real right river run said same saw say school sea second see set she should show side small some song soon
"""
WORDS = tuple(_WORDS.split())  # one token each in most vocabularies

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One request. arrival: seconds since the start. input_len: tokens, None where nobody knows before."""

    arrival: float
    prompt: str | list[int]
    input_len: int | None
    output_len: int


class TraceRow(msgspec.Struct):
    """A line of a trace: timestamp in ms, lengths in tokens, an id for each block of 512 tokens of the prompt."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


class TextRow(msgspec.Struct):
    """A line of a text file in JSON; as in vLLM's custom data set."""

    prompt: str
    output_tokens: int | None = None


def jobs(load: Workload, words: bool, seed: tuple[int, ...], count: int | None = None) -> list[Job]:
    """The jobs of one load, by arrival. words: prompts as text, else as token ids; count: of --num-prompts, if other.

    Raises InvalidValue for a file that cannot be read.
    """
    random = np.random.default_rng([load.seed, *seed])
    if load.trace:
        return _traced(load, words, random, count)
    if load.dataset_name == "text":
        asked = _texts(load, random, count or load.num_prompts)
    else:
        asked = _random(load, words, random, count or load.num_prompts)
    times = arrivals(len(asked), load.request_rate, load.burstiness, random)
    return [Job(time, *one) for time, one in zip(times.tolist(), asked, strict=True)]


def _random(
    load: Workload, words: bool, random: np.random.Generator, count: int
) -> list[tuple[str | list[int], int | None, int]]:
    """Random prompts, behind a shared beginning where the data set has some."""
    shared = load.num_prefixes if load.dataset_name == "prefix_repetition" else 0
    beginnings = [_ids(load, words, random, load.prefix_len) for _ in range(shared)] or [[]]
    order = random.permutation(count) % len(beginnings)  # each equally often, in no order
    inputs = _lengths(load.input_len, load.range_ratio, random, count)
    outputs = _lengths(load.output_len, load.range_ratio, random, count)
    made: list[tuple[str | list[int], int | None, int]] = []
    for which, length, output in zip(order.tolist(), inputs, outputs, strict=True):
        ids = beginnings[which] + _ids(load, words, random, length)
        made.append((_prompt(ids, words), len(ids), output))
    return made


def _lengths(mean: int, ratio: float, random: np.random.Generator, count: int) -> list[int]:
    """Lengths, even from mean x (1 - ratio) to mean x (1 + ratio), both included, at least 1."""
    low = max(1, math.floor(round(mean * (1 - ratio), 6)))  # rounded, as 50 x 1.1 is a little more than 55
    high = math.ceil(round(mean * (1 + ratio), 6))
    drawn: list[int] = random.integers(low, high, count, endpoint=True).tolist()
    return drawn


def _ids(load: Workload, words: bool, random: np.random.Generator, count: int) -> list[int]:
    """Random token ids, without the first tenth, where vocabularies keep special ones; or places in WORDS."""
    low, high = (0, len(WORDS)) if words else (load.vocab_size // 10, load.vocab_size)
    drawn: list[int] = random.integers(low, high, count).tolist()
    return drawn


def _prompt(ids: list[int], words: bool) -> str | list[int]:
    return " ".join(WORDS[i] for i in ids) if words else ids


def _texts(load: Workload, random: np.random.Generator, count: int) -> list[tuple[str | list[int], int | None, int]]:
    """Lines of the file in random order, again from the start where it has too few."""
    assert load.dataset_path is not None
    rows = _rows("dataset_path", load.dataset_path, TextRow, plain=lambda line: TextRow(line))
    picked = [rows[i] for i in np.resize(random.permutation(len(rows)), count).tolist()]
    return [(row.prompt, None, row.output_tokens or load.output_len) for row in picked]


def _traced(load: Workload, words: bool, random: np.random.Generator, count: int | None) -> list[Job]:
    """A trace's first rows: equal hash ids become equal blocks, what has none is random."""
    assert load.trace is not None
    rows = _rows("trace", load.trace, TraceRow)[: count or load.num_prompts]
    rows.sort(key=lambda row: row.timestamp)
    times = np.array([row.timestamp - rows[0].timestamp for row in rows]) / 1000
    blocks: dict[int, list[int]] = {}
    made = []
    for time, row in zip(stretched(times, load.request_rate).tolist(), rows, strict=True):
        ids: list[int] = []
        for key in row.hash_ids:
            if key not in blocks:
                blocks[key] = _ids(load, words, random, TRACE_BLOCK)
            ids += blocks[key]
        ids = ids[: row.input_length]
        ids += _ids(load, words, random, row.input_length - len(ids))
        made.append(Job(time, _prompt(ids, words), len(ids), row.output_length))
    return made


def _rows(field: str, path: str, kind: type[T], plain: Any = None) -> list[T]:
    """The lines of a file; `plain` makes a row of one that is no JSON object. Raises InvalidValue."""
    try:
        lines = [line for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(field, path, f"a text file that can be read ({error})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if plain is not None and not line.lstrip().startswith("{"):
            rows.append(plain(line))
            continue
        try:
            rows.append(msgspec.json.decode(line, type=kind))
        except msgspec.DecodeError as error:
            raise InvalidValue(field, path, f"{kind.__struct_fields__} in line {number} ({error})") from None  # type: ignore[attr-defined]
    if not rows:
        raise InvalidValue(field, path, "a file with at least one line")
    return rows
