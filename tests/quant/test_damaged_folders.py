"""Quantized modules that are damaged or made to harm: refused with one line, before more is taken than they hold."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import quantized_module as made
import safetensors_file
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.safetensors import read_file
from octavo.checkpoint.source import open_source
from octavo.checkpoint.tensor import Mapped
from octavo.core.errors import ModelError
from octavo.quant.folder import plain_tensors
from octavo.quant.format import format_of, pack

DATA = Path(__file__).parents[1] / "data" / "quantized"
FOLDERS = sorted(folder.name for folder in DATA.iterdir())


def said(path):
    """What is said of a folder, "" where all of it is read. Bytes taken are of the order of those stored."""
    try:
        with open_source(path) as source:
            stored = sum(tensor.nbytes for tensor in source.tensors.values())
            for tensor in plain_tensors(source).values():
                form = format_of(tensor.dtype, "auto")
                values = int(np.prod(tensor.shape, dtype=object))
                assert values <= 40 * stored + 40
                if (
                    form is not None
                    and len(tensor.shape) >= 2
                    and values
                    and not (form.group and tensor.shape[-1] % form.group)
                ):
                    raw = tensor.read()
                    pack(form, raw.reshape(int(np.prod(tensor.shape[:-1])), -1), tensor.shape[-1])
    except (ModelError, ValueError) as error:
        return str(error)
    return ""


def stored_in(name):
    """The tensors of a folder as safetensors_file takes them."""
    tensors = read_file(Mapped(DATA / name / "model.safetensors"))
    return {key: (t.dtype, t.shape, t.read().tobytes()) for key, t in tensors.items()}


def folder(path, name, tensors):
    path.mkdir(exist_ok=True)
    shutil.copy(DATA / name / "config.json", path)
    safetensors_file.write(path / "model.safetensors", tensors)
    return path


NEEDED = {
    "gptq": "qweight qzeros scales",
    "awq": "qweight qzeros scales",
    "pack": "weight_packed weight_scale weight_shape",
}
NEEDED |= {"float": "weight_scale", "mxfp4": "x_scales", "int": "weight_scale"}


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.split("-")[0] in NEEDED])
def test_a_module_without_one_of_its_parts_is_refused(tmp_path, name):
    tensors = stored_in(name)
    for part in NEEDED[name.split("-")[0]].split():
        (key,) = [key for key in tensors if key in (part, f"x.{part}")]
        left = {other: value for other, value in tensors.items() if other != key}
        if part in ("qweight", "weight_packed"):  # what marks a module: nothing stands for a weight
            with open_source(folder(tmp_path / "x", name, left)) as source:
                assert "x.weight" not in plain_tensors(source)
        else:
            text = said(folder(tmp_path / "x", name, left))
            assert "is there without" in text
            assert len(text.splitlines()) == 1


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FOLDERS), st.data())
def test_any_shapes_and_types_are_read_or_refused_in_one_line(tmp_path_factory, name, data):
    tensors = stored_in(name)
    key = data.draw(st.sampled_from(sorted(tensors)))
    dtype, shape, raw = tensors[key]
    change = data.draw(st.sampled_from(["fewer", "flat", "turned", "type", "bytes"]))
    if change == "fewer" and shape and shape[0] > 1:
        shape = (shape[0] - 1, *shape[1:])
        raw = raw[: len(raw) // tensors[key][1][0] * shape[0]]
    elif change == "flat":
        shape = (int(np.prod(shape)),)
    elif change == "turned":
        shape = shape[::-1]
    elif change == "type":
        same = [
            ["I8", "U8", "F8_E4M3", "F8_E5M2", "BOOL"],
            ["F16", "BF16", "I16"],
            ["I32", "F32", "U32"],
            ["I64", "F64"],
        ]
        dtype = data.draw(st.sampled_from(next(group for group in same if dtype in group)))
    else:
        noise = bytearray(raw)
        for _ in range(8):
            noise[data.draw(st.integers(0, len(noise) - 1))] = data.draw(st.integers(0, 255))
        raw = bytes(noise)
    path = tmp_path_factory.getbasetemp() / "shaped"
    assert len(said(folder(path, name, tensors | {key: (dtype, shape, raw)})).splitlines()) <= 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FOLDERS), st.data())
def test_any_settings_are_met_or_refused_in_one_line(tmp_path_factory, name, data):
    path = folder(tmp_path_factory.getbasetemp() / "declared", name, stored_in(name))
    config = json.loads((path / "config.json").read_text())
    declared = config["quantization_config"]
    declared[data.draw(st.sampled_from([*declared, "weight_block_size", "format", "checkpoint_format"]))] = data.draw(
        VALUES
    )
    (path / "config.json").write_text(json.dumps(config))
    assert len(said(path).splitlines()) <= 1


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [-64, -64], [64, 0], [64.0, 128], "x", None, [64]])
def test_a_shape_told_in_text_is_not_believed(tmp_path, shape):
    tensors = stored_in("bitsandbytes-nf4")
    key = next(key for key in tensors if "quant_state" in key)
    state = json.loads(tensors[key][2]) | {"shape": shape}
    tensors[key] = made.plain(np.frombuffer(json.dumps(state).encode(), np.uint8), "U8")
    assert (
        "shape of two sizes" in (text := said(folder(tmp_path / "x", "bitsandbytes-nf4", tensors)))
        or "does not hold" in text
    )
    tensors = stored_in("pack-quantized-group-4")
    if isinstance(shape, list) and len(shape) == 2 and isinstance(shape[0], int):
        tensors["x.weight_shape"] = made.plain(shape, "I64")
        assert "cannot hold" in said(folder(tmp_path / "x", "pack-quantized-group-4", tensors))


def test_a_weight_stored_whole_and_quantized_is_refused(tmp_path):
    tensors = stored_in("gptq-4-symmetric") | {"x.weight": made.plain(np.ones((64, 128)))}
    assert "both whole and quantized" in said(folder(tmp_path / "x", "gptq-4-symmetric", tensors))


def test_a_scale_beyond_float16_is_refused(tmp_path):
    tensors = stored_in("pack-quantized-group-4")
    scale = np.full(tensors["x.weight_scale"][1], 1e6, np.float32)
    tensors["x.weight_scale"] = made.plain(scale, "F32")
    assert "beyond float16" in said(folder(tmp_path / "x", "pack-quantized-group-4", tensors))
