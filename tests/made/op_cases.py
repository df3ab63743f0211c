"""Small random programs and batches that reach every operation, layout and border: what executors are compared on.

`cases()` is the list. The same seed gives the same bytes everywhere. A case's batches run in order on one executor
with `pages` pages; running a batch twice changes nothing. Names read "kind/details"; those of kind "exact" read
quantized weights with float32 activations, which an executor made for speed may refuse. Programs, forms of weights and
numbers of heads come from octavo.bench.cases: what is timed is what is compared here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from octavo.bench.cases import FORMS, HEADS, VOCAB, Shape, make_program
from octavo.core.layout import PAGE, pages_for
from octavo.kernels.weight import CODED, QUANTIZED, Layout
from octavo.program.batch import Batch, HeadRows
from octavo.program.ops import Attend, FfnIn, Head, Norm, Op, Program, Proj, Qkv

SHORT = (1, 2, 31, 32, 33, 65)  # lengths of a case's sequences: around one page
LONG = (511, 512, 513, 33, 7)  # around the split of 512 tokens


def head_rows(rng: np.random.Generator, rows: np.ndarray, positions: np.ndarray, vocab: int = VOCAB) -> HeadRows:
    """Rows with random ways to draw: half of them greedy, some with penalties, biases, targets, alternatives."""
    count = len(rows)

    def mixed(off: float, low: float, high: float, share: float = 0.5) -> np.ndarray:
        return np.where(rng.random(count) < share, rng.uniform(low, high, count), off).astype(np.float32)

    presence, frequency = mixed(0, -2, 2, 0.3), mixed(0, -2, 2, 0.3)
    repetition = mixed(1, 0.5, 2, 0.3)
    punished = (presence != 0) | (frequency != 0) | (repetition != 1)
    lengths = np.where(punished, rng.integers(1, 60, count), 0)
    biases = np.where(rng.random(count) < 0.3, rng.integers(1, 9, count), 0)
    bias_ids = [rng.choice(vocab, n, replace=False) for n in biases]
    return HeadRows(
        rows=rows.astype(np.int32),
        target=np.where(rng.random(count) < 0.2, rng.integers(0, vocab, count), -1).astype(np.int32),
        top=np.where(rng.random(count) < 0.5, rng.integers(0, 21, count), -1).astype(np.int32),
        temperature=mixed(0, 0.2, 2),
        top_k=np.where(rng.random(count) < 0.5, rng.integers(1, 50, count), 0).astype(np.int32),
        top_p=mixed(1, 0.05, 1),
        min_p=mixed(0, 0, 0.3, 0.3),
        presence=presence,
        frequency=frequency,
        repetition=repetition,
        seed=rng.integers(0, 2**64, count, dtype=np.uint64),
        position=(positions + 1).astype(np.int64),
        history_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        history=rng.integers(0, vocab, int(lengths.sum())).astype(np.int32),
        prompt_lens=rng.integers(0, lengths + 1).astype(np.int32),
        bias_starts=np.concatenate([[0], np.cumsum(biases)]).astype(np.int64),
        bias_ids=np.concatenate([np.zeros(0), *bias_ids]).astype(np.int32),
        bias_values=rng.uniform(-10, 10, int(biases.sum())).astype(np.float32),
    )


@dataclass(frozen=True)
class Texts:
    """Sequences with their places: `tables` name each one's pages, scattered; entries beyond its end are others'."""

    tokens: list[np.ndarray]
    tables: np.ndarray  # [slots, groups * pages per sequence]
    pages: int

    @staticmethod
    def random(rng: np.random.Generator, lengths: tuple[int, ...], shared: int = 0) -> Texts:
        """Random sequences of these lengths."""
        return Texts.placed(rng, [rng.integers(0, VOCAB, length).astype(np.int32) for length in lengths], shared)

    @staticmethod
    def placed(rng: np.random.Generator, tokens: list[np.ndarray], shared: int = 0, groups: int = 1) -> Texts:
        """Sequences in slots 0, 1, ..; the first `shared` pages of slot 0 are those of slot 1 too.

        groups: cache groups; each sequence has a table for each.
        """
        need = [pages_for(len(text)) for text in tokens]
        pages = groups * sum(need) + 2
        order = iter(rng.permutation(pages).tolist())
        tables = rng.integers(0, pages, (len(tokens) + 2, groups, max(need))).astype(np.int32)
        for slot, count in enumerate(need):
            for table in tables[slot]:
                table[:count] = [next(order) for _ in range(count)]
        if shared:
            tables[1, :, :shared] = tables[0, :, :shared]
            tokens[1][: shared * PAGE] = tokens[0][: shared * PAGE]
        return Texts(tokens, tables.reshape(len(tables), -1), pages)

    def batch(
        self, rng: np.random.Generator, runs: list[tuple[int, int, int]], more: float = 0, last: bool = True
    ) -> Batch:
        """One step over runs of (slot, first position, count). Wanted: each run's `last` row, a share `more` of all."""
        counts = [count for _, _, count in runs]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        positions = np.concatenate([np.arange(first, first + count) for _, first, count in runs]).astype(np.int32)
        wanted = np.union1d(starts[1:] - 1 if last else [], np.flatnonzero(rng.random(starts[-1]) < more)).astype(int)
        return Batch(
            ids=np.concatenate([self.tokens[slot][first : first + count] for slot, first, count in runs]),
            positions=positions,
            starts=starts,
            kv_lens=np.array([first + count for _, first, count in runs], np.int32),
            slots=np.array([slot for slot, _, _ in runs], np.int32),
            tables=self.tables,
            head=head_rows(rng, wanted, positions[wanted]),
        )

    def steps(self, rng: np.random.Generator, budget: int) -> Iterator[Batch]:
        """Steps of at most `budget` tokens until all is computed: each sequence stops by turns for single tokens."""
        done = dict.fromkeys(range(len(self.tokens)), 0)
        while any(done[slot] < len(self.tokens[slot]) for slot in done):
            runs, left = [], budget
            for slot in rng.permutation(len(self.tokens)).tolist():
                missing = len(self.tokens[slot]) - done[slot]
                count = min(missing, left, 1 if missing <= 3 or rng.random() < 0.3 else max(1, missing - 3))
                if count:
                    runs.append((slot, done[slot], count))
                    done[slot] += count
                    left -= count
            last = rng.random() < 0.8  # or none at all: a step of prefill alone
            yield self.batch(rng, runs, more=0.2 * rng.integers(2) * last, last=last)


@dataclass(frozen=True)
class Case:
    """One program and the steps to run on it."""

    name: str
    program: Program
    texts: Texts
    batches: list[Batch]

    @property
    def pages(self) -> int:
        """Pages that an executor allocates for it."""
        return self.texts.pages


def make_case(name: str, shape: Shape, parts: str, lengths: tuple[int, ...] = SHORT, budget: int = 48) -> Case:
    """A case whose randomness comes from its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    texts = Texts.random(rng, lengths)
    return Case(name, make_program(rng, shape, parts), texts, list(texts.steps(rng, budget)))


def shared_prefix(kv_dtype: str) -> Case:
    """Slot 1 computes only what follows the two pages that slot 0 wrote; then both together read them."""
    rng = np.random.default_rng(5)
    shape = Shape(kv_dtype=kv_dtype, layers=2)
    texts = Texts.random(rng, (80, 75), shared=2)
    batches = [texts.batch(rng, [(0, 0, 80)]), texts.batch(rng, [(1, 64, 11)], more=1)]
    batches.append(texts.batch(rng, [(1, 70, 5), (0, 64, 16)], more=1))
    return Case(f"attention/shared-prefix/{kv_dtype}", make_program(rng, shape, "af"), texts, batches)


def _heads() -> Iterator[Case]:
    for heads, kv_heads, head_dim in (*HEADS, (4, 4, 32), (4, 1, 64), (6, 2, 16), (7, 1, 32), (2, 2, 80), (3, 1, 128)):
        for dtype in ("bfloat16", "float32"):
            shape = Shape(heads=heads, kv_heads=kv_heads, head_dim=head_dim, kv_dtype=dtype)
            yield make_case(f"attention/{heads}-{kv_heads}-{head_dim}/{dtype}", shape, "a")
    for dtype in ("bfloat16", "float32"):
        yield make_case(f"attention/long/{dtype}", Shape(kv_dtype=dtype), "a", LONG, 160)
        yield shared_prefix(dtype)


def _layouts() -> Iterator[Case]:
    for layout in Layout:
        name = layout.name
        for has_bias in (False, True):
            shape = Shape(layout, bias=has_bias)
            yield make_case(f"attention/{name}/bias-{has_bias}", shape, "a")
            yield make_case(f"ffn/{name}/bias-{has_bias}", shape, "f")
        yield make_case(f"embed/{name}", Shape(layout), "e")
        yield make_case(f"head/{name}", Shape(layout), "h")
        yield make_case(f"tied/{name}", Shape(layout), "t")
        yield make_case(f"whole/{name}", Shape(layout, layers=2, bias=True, kv_dtype="bfloat16"), "teafh")
        wide = Shape(layout, width=256, inner=384, head_dim=64, group=128, layers=2, kv_dtype="bfloat16")
        yield make_case(f"whole/{name}/wide", wide, "eafh", (1, 33, 70), 67)


def _forms() -> Iterator[Case]:
    for form in FORMS:
        if form.layout in CODED:  # of 128: two heads share one that the output projection reads
            shape = Shape(form.layout, 128, 2, 1, 64, 256, form.group or 128)
            yield make_case(f"groups/{form.name}", shape, "eafh", (1, 5, 34))
    for layout in QUANTIZED:
        yield make_case(f"exact/{layout.name}", Shape(layout, act_bits=32), "eafh", (1, 5, 34))
    yield make_case("exact/BF16", Shape(Layout.BF16, act_bits=32), "eafh", (1, 5, 34))
    for layout in (Layout.F32, Layout.BF16):  # sizes that no tile divides
        yield make_case(f"odd/{layout.name}", Shape(layout, 50, 3, 1, 32, 75, bias=True), "eafh", (1, 5, 34))


def in_order(rng: np.random.Generator, program: Program) -> Program:
    """A program each of whose norms and attentions gives what is read of it in a random order."""

    def ordered(op: Op, size: int, *names: str) -> Op:
        order = rng.permutation(size).astype(np.int32).tobytes() if size else orders[-1]
        orders.append(order)
        weights = {name: replace(getattr(op, name), order=order) for name in names}
        return replace(op, act=replace(op.act, order=order), **weights)

    ops: list[Op] = []
    orders: list[bytes] = []
    for op in program.ops:
        match op:
            case Norm():
                ops.append(ordered(op, program.width))
            case Attend():
                ops.append(ordered(op, program.heads * (op.head_dim or program.kv.head_dim)))
            case Qkv():
                ops.append(ordered(op, 0, "q", "k", "v"))
            case FfnIn():
                ops.append(ordered(op, 0, "gate", "up"))
            case Proj(source=0):
                ops.append(ordered(op, 0, "weight"))
            case Head():
                ops.append(ordered(op, program.width, "weight"))
            case _:
                ops.append(op)
    return replace(program, ops=tuple(ops))


def _orders() -> Iterator[Case]:
    for layout in Layout:
        case = make_case(f"order/{layout.name}", Shape(layout, layers=2, kv_dtype="bfloat16"), "eafh")
        yield replace(case, program=in_order(np.random.default_rng(layout), case.program))


def cases() -> list[Case]:
    """All cases, each with its own name."""
    return [*_layouts(), *_heads(), *_forms(), *_orders()]
