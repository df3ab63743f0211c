"""Whole folders as llm-compressor, GPTQModel and bitsandbytes wrote them (tests/data/make_tool_folders.py)."""

from pathlib import Path

import numpy as np
import oracle_folder
import pytest
from op_cases import Texts

from octavo.checkpoint.source import open_source
from octavo.kernels import native
from octavo.models.load import load, plan
from octavo.models.lower import lower
from octavo.models.registry import read_spec
from octavo.program.cpu import Cpu

FOLDERS = sorted((Path(__file__).parents[1] / "data" / "folders").iterdir())
EXACT = {"fp8-block", "fp8-dynamic", "gptq-act-order", "gptq-v2", "mxfp4", "nf4"}
# The forms of a layer's matrices, their groups, and bits of a weight, scales included.
FORMS = {
    "fp8-block": {("F8", 128, 8.25)},
    "fp8-dynamic": {("F8", 128, 8.25), ("F8", 256, 8.125)},  # a scale for all 128 or 256 inputs of an output
    "gptq-act-order": {("W4", 32, 4.5)},
    "gptq-v2": {("W8", 64, 8.25)},
    "gptq-zeros": {("W4M", 32, 5)},
    "mxfp4": {("W4L", 32, 4.5625), ("W4L", 32, 4.625)},  # with its table for each 32 outputs of 256, 128 inputs
    "nf4": {("F4", 64, 4.5625), ("F4", 64, 4.625)},
    "nvfp4": {("F4", 16, 6.0625), ("F4", 16, 6.125)},
    "w4a16-static": {("W4", 128, 4.125)},
    "w4a16-zeros": {("W4M", 128, 4.25)},
    "w8a8": {("W8", 128, 8.125)},
}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_are_those_of_the_weights_they_hold(folder):
    [expected] = oracle_folder.logits_of(folder)
    assert expected.std() > 0.5
    # Rounded once to float16: scales of llm-compressor, which are float32 in a model of float32, and a group's minimum.
    # What the tool unpacks NVFP4 to are bfloat16 numbers, of scales rounded to bfloat16: ours are the exact ones.
    tolerance = 1e-4 if folder.name in EXACT else 0.05 if folder.name == "nvfp4" else 0.02
    assert oracle_folder.largest_error(folder, 9) < tolerance


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_matrices_keep_their_codes_at_their_size(folder):
    with open_source(folder) as source:
        entries = plan(source, read_spec(source), "auto")
    matrices = [entry for entry in entries if entry.key.startswith("layers.") and entry.form]
    found = {(m.form.layout.name, m.form.group, m.nbytes * 8 / (m.shape[0] * m.shape[1])) for m in matrices}
    assert found == FORMS[folder.name]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_native_logits_are_near_those_of_the_weights(folder):
    [expected], [prompt] = oracle_folder.logits_of(folder), oracle_folder.prompts_of(folder)
    with open_source(folder) as source:
        spec = read_spec(source)
        program = lower(spec, load(source, spec), kv_dtype="float32", max_len=spec.max_len)
    rng = np.random.default_rng(0)
    texts = Texts.placed(rng, [prompt])
    batches = [texts.batch(rng, [run], more=1) for run in [(0, 0, len(prompt) - 1), (0, len(prompt) - 1, 1)]]
    for isa in native.isas():
        executor = Cpu(program, 2, isa=isa)
        executor.allocate(texts.pages)
        got = np.concatenate([executor.logits(batch) for batch in batches])
        executor.close()
        # Inputs are rounded to bfloat16, or to int8 with a scale for each group.
        tolerance = 0.015 if any(layout in ("F8", "F4") for layout, *_ in FORMS[folder.name]) else 0.04
        assert np.sqrt(np.mean((got - expected) ** 2)) < tolerance * expected.std(), isa
