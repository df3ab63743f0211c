"""Whole folders as llm-compressor and GPTQModel wrote them (tests/data/make_tool_folders.py)."""

from pathlib import Path

import oracle_folder
import pytest

FOLDERS = sorted((Path(__file__).parents[1] / "data" / "folders").iterdir())
EXACT = {"fp8-block", "fp8-dynamic", "gptq-act-order", "gptq-v2"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_are_those_of_the_weights_they_hold(folder):
    [expected] = oracle_folder.logits_of(folder)
    assert expected.std() > 0.5
    # Rounded once to float16: scales of llm-compressor, which are float32 in a model of float32, and a group's minimum.
    tolerance = 1e-4 if folder.name in EXACT else 0.02
    assert oracle_folder.largest_error(folder, 9) < tolerance
