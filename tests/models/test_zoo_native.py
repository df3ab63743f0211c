"""The native executor on a tiny model of each architecture: the answers of the reference, which its makers confirm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from op_cases import Texts
from oracle_folder import program_of, prompts_of

from octavo.kernels import native
from octavo.program.cpu import Cpu
from octavo.program.reference import Reference

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(path for path in (DATA / "zoo").iterdir() if "bert" not in path.name)  # those that give logits
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
