"""Files as llama.cpp quantizes them: every type stands for the values that the gguf package says it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ggml_blocks
import numpy as np
import pytest

from octavo.checkpoint.source import open_source
from octavo.quant.format import QUANTIZED, format_of, pack

DATA = Path(__file__).parents[1] / "data"
FILES = sorted((DATA / "gguf").glob("*.gguf"))


def test_there_is_a_file_of_every_type() -> None:
    assert {path.stem for path in FILES if not path.stem.startswith("parts-")} == set(QUANTIZED)


@pytest.mark.parametrize("kind", sorted(QUANTIZED))
def test_values_are_those_of_the_gguf_package(kind: str) -> None:
    with open_source(DATA / "gguf" / f"{kind}.gguf") as source:
        stored = source.tensors["w"]
        raw = stored.read().reshape(stored.shape[0], -1)
        want = source.tensors["w.values"].read().view(np.float32).reshape(stored.shape)
    assert stored.dtype == kind
    assert np.array_equal(ggml_blocks.decode(kind, raw.tobytes(), stored.shape), want)
    form = format_of(kind, "auto")
    assert form is not None
    found = pack(form, raw, stored.shape[1]).dequantize()
    if kind in ggml_blocks.EXACT:
        assert np.array_equal(found, want)
    error = np.abs(found - want.astype(np.float64))
    assert (error <= ggml_blocks.once_rounded(kind, raw.tobytes(), stored.shape)).all()
    assert np.abs(want).max() > 60


@pytest.mark.oracle
def test_files_made_anew_equal_the_committed_ones(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA / "make_gguf_fixtures.py", tmp_path], check=True)
    made = sorted(tmp_path.iterdir())
    assert {"Q4_0.gguf", "Q5_1.gguf", "Q8_0.gguf", "parts-00003-of-00003.gguf"} <= {path.name for path in made}
    for path in made:
        assert path.read_bytes() == (DATA / "gguf" / path.name).read_bytes(), path.name


@pytest.mark.oracle
@pytest.mark.parametrize("kind", sorted(QUANTIZED))
def test_the_values_of_files_are_the_package_s(kind: str) -> None:
    from gguf import GGUFReader, dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(DATA / "gguf" / f"{kind}.gguf").tensors}
    assert np.array_equal(dequantize(tensors["w"].data, tensors["w"].tensor_type), tensors["w.values"].data)
