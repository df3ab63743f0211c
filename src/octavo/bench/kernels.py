"""How near each kernel comes to the machine: its share of the measured peak, or of the measured bandwidth.

Programs are those of bench/cases.py, whose forms the parity test compares with the reference; times are those that the
native executor takes of each op. With weights "cached" a program's layers share one set of them, and the share is that
of the peak; in "memory" each layer has its own, together too many for any cache, and the share is that of the
bandwidth. Attention's pages lie in memory always. Knows no model file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from tqdm import tqdm

from octavo.bench import picture, record
from octavo.bench.cases import FORMS, HEADS, Form, Shape, act, make_program, random_weight, vector
from octavo.bench.keep import Keep
from octavo.bench.profile import Row, seconds_by_kind, told
from octavo.bench.steps import Run, pages, step
from octavo.core.errors import InvalidValue
from octavo.core.layout import KvLayout
from octavo.core.table import columns, count
from octavo.engine.limits import cores
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight, aligned
from octavo.program.cost import Cost, by_kind, costs, kinds
from octavo.program.cpu import Cpu
from octavo.program.ops import Attend, Embed, Head, Norming, Op, Program, Qkv

CACHED_ROWS = (1, 2, 4, 8, 16, 64, 192)
MEMORY_ROWS = (1, 2, 4, 8, 16)
HEAD_ROWS = (1, 8, 64)
CONTEXTS = (512, 1024, 2048, 4096, 8192)
PROMPT = 2048
LAYER = Shape(width=1024, heads=16, kv_heads=4, head_dim=64, inner=2816, kv_dtype="bfloat16")
HEAD = Shape(width=2048, vocab=128256)  # of Llama-3.2-1B
HEAD_FORMS = (Form(Layout.BF16), Form(Layout.W8, 32), Form(Layout.W4, 32), Form(Layout.W4M, 32))
CACHED_LAYERS = 4
LEAST_STEPS = 3  # of a case, however long they take
PROJECTIONS = ("norm", "qkv", "proj(o)", "ffn_in", "proj(down)")
WAYS: dict[str, dict[str, float]] = {"greedy": {}, "top-p": {"temperature": 0.7, "top_p": 0.9}}


@dataclass(frozen=True, slots=True)
class Timed:
    """One step to time: its runs, and how its rows are drawn."""

    runs: Sequence[Run]
    way: str = "greedy"


@dataclass(frozen=True, slots=True)
class Measured:
    """All ops of one kind in one step: the median over many steps of their time, and their cost.

    `about` holds the group and name of the case, the instruction set, and how many steps and ops there were.
    """

    about: dict[str, Any]
    kind: str
    seconds: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class Group:
    """Steps, by name, of one program. `of` is "peak" or "bandwidth", `kinds` the kinds of op that are measured."""

    name: str
    of: str
    kinds: tuple[str, ...]
    make: Callable[[], Program]
    steps: dict[str, Timed]

    def only(self, text: str) -> Group:
        """The cases whose whole name contains `text`."""
        return dataclasses.replace(
            self, steps={name: timed for name, timed in self.steps.items() if text in f"{self.name} {name}"}
        )


def run(args: argparse.Namespace) -> int:
    """Measure the machine, then the kernels; print, keep."""
    asked, threads = args.step, args.threads or cores()
    if not asked["seconds"] > 0:
        raise InvalidValue("seconds", asked["seconds"], "a number above 0")
    wanted = [group for group in (group.only(asked["only"]) for group in groups(asked["size"])) if group.steps]
    if not wanted:
        raise InvalidValue("only", asked["only"], "part of a case's name, such as 'W4M/32 cached' or 'decode 1 at'")
    keep = Keep(args)
    begun = record.begin("kernels", {**asked, "threads": threads})
    rates: dict[str, dict[str, float]] = {}
    cases: list[dict[str, Any]] = []
    total = sum(len(group.steps) for group in wanted) * len(asked["isa"])
    with tqdm(total=total, unit="case", disable=None, leave=False) as bar:
        for isa in asked["isa"]:
            before = native.measure(threads, isa)
            found: list[Measured] = []
            for group in wanted:
                bar.set_description(f"{isa} {group.name}")
                for case in measure(group, threads, isa, asked["seconds"]):
                    found += case
                    bar.update()
            after = native.measure(threads, isa)  # a moment's neighbour must not make the machine look slow
            rates[isa] = {name: max(rate, after[name]) for name, rate in before.items()}
            cases += [one.about | Row(one.kind, one.seconds, one.cost, rates[isa]).record() for one in found]
    whole = record.end(begun, {"rates": rates, "cases": cases})
    keep.result(whole, picture.roofs)
    print(json.dumps(whole, indent=2) if args.json else show(whole))
    return 0


def groups(size_bytes: int) -> Iterator[Group]:
    """All cases. size_bytes: what those in memory walk through."""
    for form in FORMS:
        for place, rows in (("cached", CACHED_ROWS), ("memory", MEMORY_ROWS)):
            steps = {f"rows {count}": Timed([(0, count)]) for count in rows}
            of = "peak" if place == "cached" else "bandwidth"
            make = partial(layers, form, size_bytes if place == "memory" else 0)
            yield Group(f"projections {form.name} {place}", of, PROJECTIONS, make, steps)
    for heads in HEADS:
        name = "attention {}-{}-{}".format(*heads)
        for sequences in (1, 8):
            for context in CONTEXTS:
                timed = Timed([(context - 1, 1)] * sequences)
                make = partial(attention, heads, context * sequences, size_bytes)
                yield Group(name, "bandwidth", ("attend",), make, {f"decode {sequences} at {context}": timed})
        make = partial(attention, heads, PROMPT, 0)
        yield Group(name, "peak", ("attend",), make, {f"prefill {PROMPT}": Timed([(0, PROMPT)])})
    for form in HEAD_FORMS:
        steps = {f"rows {n} {way}": Timed([(0, 1)] * n, way) for n in HEAD_ROWS for way in WAYS}
        yield Group(f"head {form.name}", "bandwidth", ("head", "draw"), partial(head, form, HEAD), steps)


def measure(group: Group, threads: int, isa: str, seconds: float) -> Iterator[list[Measured]]:
    """Time a group's steps, each for `seconds` or a little more; for each step what every kind of op took."""
    program = group.make()
    most = max(sum(count for _, count in timed.runs) for timed in group.steps.values())
    executor = Cpu(program, threads, max_tokens=most, isa=isa)
    try:
        executor.allocate(max(pages(timed.runs) for timed in group.steps.values()))
        assert executor.store is not None
        executor.store.touched()
        for name, timed in group.steps.items():
            batch = step(timed.runs, tokens_of(program), program.kv.groups, **WAYS[timed.way])
            executor.run(batch)
            executor.times()
            taken: list[dict[str, float]] = []
            end = time.perf_counter() + seconds
            while len(taken) < LEAST_STEPS or time.perf_counter() < end:
                executor.run(batch)
                taken.append(seconds_by_kind(program, executor.times()))
            counted = by_kind(program, costs(program, batch))
            medians = {kind: float(np.median([one[kind] for one in taken])) for kind in group.kinds}
            about = {"group": group.name, "case": name, "isa": isa, "of": group.of, "steps": len(taken)}
            ops = {kind: max(1, kinds(program).count(kind)) for kind in group.kinds}
            yield [Measured(about | {"ops": ops[kind]}, kind, medians[kind], counted[kind]) for kind in group.kinds]
    finally:
        executor.close()


def layers(form: Form, size_bytes: int) -> Program:
    """Layers of weights in one form: a few that share theirs, or as many as take `size_bytes`, each with its own."""
    shape = dataclasses.replace(LAYER, layout=form.layout, group=form.group or LAYER.width)
    if not form.group:
        shape = dataclasses.replace(shape, inner=3 * LAYER.width)  # a multiple of the one group of a row
    program = make_program(np.random.default_rng(0), shape, "af", max_len=max(CACHED_ROWS))
    size = sum(weight.nbytes for op in program.ops[1:-1] for weight in weights_of(op).values())
    return repeated(program, -(-size_bytes // size) or CACHED_LAYERS, copies=size_bytes > 0)


def attention(heads: tuple[int, int, int], tokens: int, size_bytes: int) -> Program:
    """Layers of attention alone, whose keys and values of `tokens` tokens take `size_bytes` together; at least one."""
    shape = Shape(heads=heads[0], kv_heads=heads[1], head_dim=heads[2], kv_dtype="bfloat16")
    program = make_program(np.random.default_rng(0), shape, "a", max_len=max(CONTEXTS))
    return repeated(program, max(1, -(-size_bytes // (tokens * program.kv.token_bytes))), copies=False)


def head(form: Form, like: Shape) -> Program:
    """A head alone: a vocabulary of random weights, its panels repeated."""
    rng = np.random.default_rng(0)
    shape = dataclasses.replace(like, layout=form.layout, group=form.group)
    some = random_weight(rng, shape, 1024, like.width)
    data = aligned(some.nbytes // some.panels * -(-like.vocab // 32))
    for start in range(0, len(data), some.nbytes):
        data[start : start + some.nbytes] = some.data[: len(data) - start]
    weight = dataclasses.replace(some, rows=like.vocab, data=data)
    table = random_weight(rng, Shape(width=like.width), 64, like.width)
    norm = 4 * vector(rng, like.width)  # logits as far apart as a model's: a few tokens have most of the share
    ops = (Embed(table), Head(Norming("rms", norm), weight, None, act(shape)))
    return Program(ops, like.width, 1, KvLayout(1, 1, 32), like.vocab, max_len=1)


def repeated(program: Program, count: int, *, copies: bool) -> Program:
    """A program of one layer with `count` of it; with `copies` each has weights of its own, in one block of memory."""
    first, *layer, last = program.ops
    size = sum(weight.nbytes for op in layer for weight in weights_of(op).values())
    room, at = aligned(size * (count - 1) if copies else 0), 0
    ops = [first]
    for index in range(count):
        for op in layer:
            changed: dict[str, Any] = {"layer": index} if isinstance(op, (Qkv, Attend)) else {}
            for name, weight in weights_of(op).items() if copies and index else ():
                changed[name] = dataclasses.replace(weight, data=room[at : at + weight.nbytes])
                changed[name].data[:] = weight.data
                at += weight.nbytes
            ops.append(dataclasses.replace(op, **changed))
    kv = dataclasses.replace(program.kv, layers=count)
    return dataclasses.replace(program, ops=(*ops, last), kv=kv)


def weights_of(op: Op) -> dict[str, Weight]:
    """The matrices that an op reads, by the names of their fields."""
    values = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
    return {name: value for name, value in values.items() if isinstance(value, Weight)}


def tokens_of(program: Program) -> int:
    """How many tokens the program's table holds."""
    table = program.ops[0]
    assert isinstance(table, Embed)
    return table.table.rows


def show(whole: dict[str, Any]) -> str:
    """The record as text: a table for each group of cases, the kinds of op side by side."""
    lines = []
    for isa, rates in whole["results"]["rates"].items():
        lines.append(f"{isa}, {count(whole['settings']['threads'], 'thread')}: {told(rates)}")
    for (isa, of, name), found in groupby(whole["results"]["cases"], lambda one: (one["isa"], one["of"], one["group"])):
        by_case = {case: list(rows) for case, rows in groupby(found, lambda one: one["case"])}
        head = ("", *(row["kind"] for row in next(iter(by_case.values()))))
        cells = [head, *((case, *(_cell(row) for row in rows)) for case, rows in by_case.items())]
        lines += ["", f"{name}: share of the {of}, microseconds of one op ({isa})"]
        lines.append(columns(cells, right=range(1, len(head)), indent=2))
    return "\n".join([*lines, "", record.title(whole)])


def _cell(row: dict[str, Any]) -> str:
    """One measurement."""
    share = row[f"{row['of']}_share"]
    return (f"{share:.0%} " if share else "") + f"{row['seconds'] / row['ops'] * 1e6:8.1f}"
