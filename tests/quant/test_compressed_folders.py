"""Whole folders as llm-compressor wrote them (tests/data/make_compressed_folders.py): we read the weights it meant."""

from pathlib import Path

import oracle_folder
import pytest

FOLDERS = sorted((Path(__file__).parents[1] / "data" / "compressed").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_are_those_of_the_weights_they_hold(folder):
    [expected] = oracle_folder.logits_of(folder)
    assert expected.std() > 0.5
    # Scales of float32, which a model of float32 has, are kept as float16: rounded once. FP8 is read as float32 here.
    tolerance = 1e-4 if folder.name.startswith("fp8") else 0.01
    assert oracle_folder.largest_error(folder, 9) < tolerance
