"""Modules that the tools people use wrote: our weights are those that the tools themselves unpack."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from octavo.checkpoint.safetensors import read_file
from octavo.checkpoint.source import open_source
from octavo.checkpoint.tensor import Mapped
from octavo.kernels.weight import Layout
from octavo.quant.folder import plain_tensors
from octavo.quant.format import format_of, pack

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted((DATA / "quantized").iterdir())
TOOLS = {"gptq": "auto_gptq", "awq": "awq", "compressed": "compressed_tensors", "bitsandbytes": "bitsandbytes"}
TOOLS |= {"mxfp4": "transformers"}
LAYOUTS = {
    "awq-gemm": Layout.W4M,
    "awq-gemv": Layout.W4M,
    "bitsandbytes-fp4": Layout.F4,
    "bitsandbytes-fp4-nested": Layout.F4,
    "bitsandbytes-int8": Layout.W8,
    "bitsandbytes-nf4": Layout.F4,
    "bitsandbytes-nf4-nested": Layout.F4,
    "float-quantized-block-8": Layout.F8,
    "float-quantized-channel-8": Layout.F8,
    "float-quantized-tensor-8": Layout.F8,
    "gptq-2-symmetric": Layout.W4,
    "gptq-2-zeros": Layout.W4M,
    "gptq-3-symmetric": Layout.W4,
    "gptq-3-zeros": Layout.W4M,
    "gptq-4-symmetric": Layout.W4,
    "gptq-4-zeros": Layout.W4M,
    "gptq-4-zeros-whole": Layout.W4M,
    "gptq-8-symmetric": Layout.W8,
    "gptq-8-zeros": Layout.W8M,
    "int-quantized-channel-8": Layout.W8,
    "mxfp4": Layout.W4L,
    "pack-quantized-channel-8": Layout.W8,
    "pack-quantized-channel-8-zeros": Layout.W8M,
    "pack-quantized-group-4": Layout.W4,
    "pack-quantized-group-4-zeros": Layout.W4M,
}
PLAIN = {"gptq-4-symmetric-ordered", "gptq-4-zeros-ordered"}


def test_fixtures_are_all_there():
    assert {folder.name for folder in FOLDERS} == PLAIN | set(LAYOUTS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_weights_are_those_that_the_tool_unpacks(folder):
    expected = read_file(Mapped(folder / "expected.safetensors"))["x"]
    values = expected.read().view(np.float32).reshape(-1, expected.shape[-1])
    with open_source(folder) as source:
        (tensor,) = plain_tensors(source).values()
        assert tensor.shape == expected.shape
        raw = tensor.read().reshape(len(values), -1)
        weight = pack(format_of(tensor.dtype, "float32"), raw, tensor.shape[-1])
        kept = format_of(tensor.dtype, "auto").layout
    found = weight.dequantize()
    assert kept is LAYOUTS.get(folder.name, Layout.BF16)
    largest = np.abs(values).max()
    if "zeros" in folder.name or folder.name.startswith("awq"):  # the minimum is rounded to float16
        bound = 2.0**-11 * largest
    elif folder.name == "bitsandbytes-int8":  # the scale is
        bound = 2.0**-11 * np.abs(values)
    else:  # the order of float32 products may differ
        bound = 2.0**-23 * np.abs(values)
    assert (np.abs(found - values) <= bound).all(), np.abs(found - values).max() / largest


@pytest.mark.oracle
@pytest.mark.parametrize("family", TOOLS)
def test_files_made_anew_hold_the_same(tmp_path, family):
    if importlib.util.find_spec(TOOLS[family]) is None:
        pytest.skip(f"{TOOLS[family]} is not installed: the committed files are checked all the same")
    subprocess.run([sys.executable, DATA / "make_quantized_fixtures.py", tmp_path, family], check=True)
    made = sorted(tmp_path.iterdir())
    assert made
    for folder in made:
        committed = DATA / "quantized" / folder.name
        assert json.loads((folder / "config.json").read_text()) == json.loads((committed / "config.json").read_text())
        assert (folder / "model.safetensors").read_bytes() == (committed / "model.safetensors").read_bytes()
