"""Fuzzes the readers of checkpoints with atheris, from sound files on, for a bounded number of runs."""

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf_file
import numpy as np
import pytest
import safetensors_file

HERE = Path(__file__).parent
PICKLED = HERE.parent / "data" / "pickled"
RUNS = 20_000
LIMITS = ("-max_len=16384", "-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=256", "-seed=1")


def seeds(reader: str) -> list[bytes]:
    """Sound files, to begin with."""
    if reader == "gguf":
        metadata = {"general.alignment": 32, "s": "a", "strings": ["a", "ö"], "flags": [True], "f": 0.5}
        return [gguf_file.file_bytes(metadata, {"a": ("F32", (2, 4), bytes(32)), "b": ("Q8_0", (1, 32), bytes(34))})]
    if reader == "safetensors":
        tensors = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}
        return [safetensors_file.file_bytes(tensors, {"k": "v"})]
    files = [(PICKLED / f"{name}.bin").read_bytes() for name in ("zip", "legacy", "float8")]
    if reader == "torch":
        return files
    archive = zipfile.ZipFile(io.BytesIO(files[0]))
    return [archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))), files[1]]


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["gguf", "safetensors", "torch", "pickle"])
def test_any_bytes_load_or_cost_one_model_error(reader, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed: it has no wheel for this Python")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i, data in enumerate(seeds(reader)):
        (corpus / str(i)).write_bytes(data)
    # a shell between: a process begins with the largest memory that the one before it ever had, here of all tests
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, HERE / "readers.py", reader, corpus]
    command += [f"-atheris_runs={RUNS}", *LIMITS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    counted = re.search(r"Done (\d+) ", done.stderr)
    assert counted and int(counted[1]) >= RUNS, done.stderr[-3000:]
