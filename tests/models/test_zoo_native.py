"""The native executor on a tiny model of each architecture: the answers of the reference, which its makers confirm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from op_cases import Texts
from oracle_folder import program_of, prompts_of

from octavo.kernels import native
from octavo.program.batch import Batch
from octavo.program.cpu import Cpu
from octavo.program.reference import Reference

DATA = Path(__file__).parents[1] / "data"
ALL = sorted(path for path in (DATA / "zoo").iterdir() if path.is_dir())
ENCODERS = [folder for folder in ALL if "bert" in folder.name]
FOLDERS = [folder for folder in ALL if folder not in ENCODERS]  # those that give logits
TOLERANCE = 1e-4
STEPS = 8  # tokens that are decoded one by one


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_native_logits_equal_those_of_the_reference(folder: Path) -> None:
    program = program_of(folder)
    rng = np.random.default_rng(0)
    texts = Texts.placed(rng, [ids[: program.max_len] for ids in prompts_of(folder)], groups=program.kv.groups)
    begun = [max(1, len(ids) - STEPS) for ids in texts.tokens]
    runs = [[(slot, 0, count) for slot, count in enumerate(begun)]]
    for step in range(STEPS):
        runs.append([(slot, at + step, 1) for slot, at in enumerate(begun) if at + step < len(texts.tokens[slot])])
    batches = [texts.batch(rng, run, more=1) for run in runs if run]
    reference = Reference(program)
    reference.allocate(texts.pages)
    wanted = [reference.logits(batch) for batch in batches]
    for isa in native.isas():
        executor = Cpu(program, 2, isa=isa)
        executor.allocate(texts.pages)
        for batch, want in zip(batches, wanted, strict=True):
            got = executor.logits(batch)
            assert np.abs(got - want).max() < TOLERANCE, isa
            assert np.array_equal(got.argmax(axis=1), want.argmax(axis=1)), isa
        executor.close()


def whole(texts: Texts, slots: list[int], types: list[np.ndarray]) -> Batch:
    """Whole texts in one step, all rows asked for, with the types of their tokens."""
    batch = texts.batch(np.random.default_rng(0), [(slot, 0, len(texts.tokens[slot])) for slot in slots], more=1)
    return dataclasses.replace(batch, types=np.concatenate([types[slot] for slot in slots]))


@pytest.mark.parametrize("folder", ENCODERS, ids=lambda folder: folder.name)
def test_native_vectors_equal_those_of_the_reference_whatever_the_batch(folder: Path) -> None:
    """Tokens of both types; close to the reference, and the same bits alone and beside others, on any threads."""
    program, rng = program_of(folder), np.random.default_rng(0)
    kinds = 1 if program.ops[0].types is None else len(program.ops[0].types)
    lengths = (1, 31, 33, 64, program.max_len)
    texts = Texts.placed(rng, [rng.integers(0, program.vocab, n).astype(np.int32) for n in lengths])
    types = [np.sort(rng.integers(0, kinds, n)).astype(np.int32) for n in lengths]
    order = list(range(len(lengths)))
    reference = Reference(program)
    reference.allocate(texts.pages)
    wanted = [reference.vectors(whole(texts, [slot], types)) for slot in order]
    for isa in native.isas():
        found: list[np.ndarray] = []
        for threads in (1, 2, 3):
            executor = Cpu(program, threads, isa=isa)
            executor.allocate(texts.pages)
            alone = [executor.vectors(whole(texts, [slot], types)) for slot in order]
            mixed = executor.vectors(whole(texts, order[::-1], types))
            executor.close()
            found += [np.concatenate(alone), np.concatenate(np.split(mixed, np.cumsum(lengths[:0:-1]))[::-1])]
        assert np.abs(found[0] - np.concatenate(wanted)).max() < TOLERANCE, isa
        assert all(np.array_equal(found[0].view(np.uint32), other.view(np.uint32)) for other in found[1:]), isa


@pytest.mark.parametrize("folder", [folder for folder in ENCODERS if folder.name == "bert"], ids=lambda f: f.name)
def test_the_type_of_a_token_counts(folder: Path) -> None:
    program = program_of(folder)
    texts = Texts.random(np.random.default_rng(1), (9,))
    executor = Cpu(program, 1)
    executor.allocate(texts.pages)
    first = whole(texts, [0], [np.zeros(9, np.int32)])
    vectors = [executor.vectors(batch) for batch in (first, dataclasses.replace(first, types=None))]
    assert np.array_equal(*vectors)
    assert np.abs(executor.vectors(whole(texts, [0], [np.ones(9, np.int32)])) - vectors[0]).max() > 0.1
    executor.close()
