"""Programs that are little but a head, rows to draw from, and how near a draw is to another one."""

from __future__ import annotations

import dataclasses

import numpy as np
from op_cases import Texts, head_rows

from octavo.bench.cases import vector
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.weight import Weight
from octavo.program import sampling
from octavo.program.batch import Batch, HeadRows
from octavo.program.cpu import Cpu
from octavo.program.ops import Act, Embed, Head, Norming, Program

ISAS = native.isas()


def peaked(vocab: int, spread: float, seed: int = 0, *, shaped: bool = False) -> Program:
    """Embedding and head only: logits of about this spread, some of them equal. shaped: they are scaled and capped."""
    rng = np.random.default_rng(seed)
    width = 64
    table = Weight.float32(rng.normal(0, 1, (vocab, width)).astype(np.float32))
    matrix = (rng.normal(0, spread * width**-0.5, (vocab, width))).astype(np.float32)
    matrix[vocab // 3 : vocab // 3 + 9] = matrix[vocab // 2]  # ties
    head = Head(Norming("rms", vector(rng, width)), Weight.float32(matrix), None, Act(32))
    if shaped:
        bias = rng.normal(0, spread, vocab).astype(np.float32)
        bias[vocab // 3 : vocab // 3 + 9] = bias[vocab // 2]
        head = dataclasses.replace(head, bias=bias, scale=2.5, soft_cap=1.5 * spread)
    return Program((Embed(table), head), width, 2, KvLayout(1, 1, 32), vocab, 4096)


def rows_of(vocab: int, count: int, seed: int = 1) -> Batch:
    """One run with every row wanted, each to be drawn in its own way."""
    rng = np.random.default_rng(seed)
    texts = Texts.placed(rng, [rng.integers(0, vocab, count).astype(np.int32)])
    batch = texts.batch(rng, [(0, 0, count)])
    rows = np.arange(count)
    return dataclasses.replace(batch, head=head_rows(rng, rows, rows, vocab))


def naming(batch: Batch, vocab: int, seed: int = 2) -> Batch:
    """A batch of which some rows name the tokens that they report on."""
    rng = np.random.default_rng(seed)
    named = [rng.choice(vocab, max(top, 0) if rng.random() < 0.5 else 0, replace=False) for top in batch.head.top]
    starts, ids = np.cumsum([0, *map(len, named)]), np.concatenate(named).astype(np.int32)
    return dataclasses.replace(batch, head=dataclasses.replace(batch.head, named_starts=starts, named=ids))


def executor(program: Program, isa: str, threads: int = 2) -> Cpu:
    """With enough pages for every test here."""
    cpu = Cpu(program, threads, max_tokens=512, isa=isa)
    cpu.allocate(20)
    return cpu


def near_edge(logits: np.ndarray, head: HeadRows, row: int) -> bool:
    """Whether float32 sums may rightly decide this row otherwise than float64 ones."""
    exact = (float(head.temperature[row]), int(head.top_k[row]), float(head.top_p[row]), float(head.min_p[row]))
    x = sampling.adjusted(logits, head, row)
    kept = sampling.kept(x, temperature=exact[0], top_k=exact[1], top_p=exact[2], min_p=exact[3])
    for top_p, min_p in (
        (exact[2] * (1 - 2e-6), exact[3]),
        (exact[2] * (1 + 2e-6), exact[3]),
        (exact[2], exact[3] * 1.00001),
    ):
        other = sampling.kept(x, temperature=exact[0], top_k=exact[1], top_p=top_p, min_p=min_p)
        if exact[2] < 1 and not np.array_equal(kept, other):
            return True
    shares = sampling.probabilities(x, temperature=exact[0], top_k=exact[1], top_p=exact[2], min_p=exact[3])
    u = sampling.uniform(int(head.seed[row]), int(head.position[row]))
    return bool(np.abs(np.cumsum(shares) - u).min() < 2e-6)
