"""Quantizing at load, on a tiny model of every architecture: which matrices become which codes, and that they run."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from op_cases import Texts

from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight
from octavo.models.load import footprint, load
from octavo.models.lower import lower
from octavo.models.packed import load_kept
from octavo.models.registry import read_spec
from octavo.program.cpu import Cpu
from octavo.program.ops import MoeIn
from octavo.program.reference import Reference

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(path for path in (DATA / "zoo").iterdir() if path.is_dir())
MIXTURES = [path for path in FOLDERS if "experts" in (path / "config.json").read_text()]
PLAIN = (Layout.F32, Layout.BF16)


def loaded(path: Path, quantization: str, dtype: str = "auto"):
    with open_source(path) as source:
        spec = read_spec(source)
        weights = load(source, spec, dtype=dtype, quantization=quantization)
        assert sum(footprint(source, spec, dtype, quantization).values()) == sum(w.nbytes for w in weights.values())
    return spec, weights


@pytest.mark.parametrize("quantization", ["int16", "int8", "int4"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_architecture_is_quantized(folder: Path, quantization: str) -> None:
    spec, plain = loaded(folder, "none", "float32")
    _, found = loaded(folder, quantization)
    lower(spec, found, kv_dtype="float32", max_len=16)
    coded = [key for key, weight in found.items() if isinstance(weight, Weight) and weight.layout not in PLAIN]
    wide = [key for key, weight in plain.items() if isinstance(weight, Weight) and weight.cols % 32 == 0]
    assert set(coded) <= set(wide) and (coded or not wide)
    for key in coded:
        inside = quantization == "int4" and key.startswith("layers.")
        layout, loss = (Layout.W4, 0.15) if inside else (Layout.W8, 0.01)
        layout, loss = (Layout.W16, 0.0005) if quantization == "int16" else (layout, loss)
        assert found[key].layout is layout
        was, now = plain[key].dequantize(), found[key].dequantize()
        assert np.linalg.norm(now - was) < loss * np.linalg.norm(was)
    for key in plain.keys() - set(wide):
        if not isinstance(plain[key], Weight):
            np.testing.assert_array_equal(found[key], plain[key])


@pytest.mark.parametrize("quantization", ["int16", "int8", "int4"])
@pytest.mark.parametrize("folder", MIXTURES, ids=lambda folder: folder.name)
def test_mixtures_in_codes_run_natively_as_by_the_reference(folder: Path, quantization: str) -> None:
    """Of texts of one token each: a last bit may move a code of an input by one step, and with it the row's results.

    In longer texts each later token would see that in the keys and values, and few rows of Mixtral or LFM2 agree: no
    more of the reference's own, if its embedding is an ulp off. Steps of long texts: tests/program/test_moe.py.
    """
    spec, weights = loaded(folder, quantization)
    program = lower(spec, weights, kv_dtype="float32", max_len=32)
    assert any(isinstance(op, MoeIn) for op in program.ops)
    rng = np.random.default_rng(0)
    texts = Texts.placed(rng, [np.array([token], np.int32) for token in range(64)], groups=program.kv.groups)
    batch = texts.batch(rng, [(slot, 0, 1) for slot in range(64)], more=1)
    found = []
    for executor in (Reference(program), *(Cpu(program, 2, isa=isa) for isa in native.isas())):
        executor.allocate(texts.pages)
        found.append(executor.logits(batch))
        executor.close()
    # Of codes 32 times as fine more inputs lie near an edge between two, and it matters less which one they become.
    share, most = (0.5, 0.002) if quantization == "int16" else (0.9, 0.1)
    for got in found[1:]:
        error = np.abs(got - found[0]).max(axis=1) / np.abs(found[0]).max()  # [rows]
        assert np.median(error) < 1e-6
        assert (error < 1e-5).mean() > share
        assert error.max() < most


def test_rows_that_a_map_makes_are_quantized_as_they_lie(tmp_path: Path) -> None:
    """The same numbers from a folder and from a GGUF, whose rows stand in another order, give the same codes."""
    made = {"layers": 2, "heads": 6, "kv_heads": 3, "head_dim": 32, "inner": 96}
    folder = tiny_llama.write_folder(tmp_path / "folder", **made)
    gguf = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="F32", **made)
    _, first = loaded(folder, "int4")
    _, second = loaded(gguf, "int4")
    for key, weight in first.items():
        ours, theirs = (w.data if isinstance(w, Weight) else w for w in (weight, second[key]))
        np.testing.assert_array_equal(ours, theirs)


def test_kept_weights_of_each_scheme_have_their_own_file(tmp_path: Path) -> None:
    path = tiny_llama.write_folder(tmp_path / "folder")
    for _ in range(2):
        for quantization in ("none", "int16", "int8", "int4"):
            with open_source(path) as source:
                kept = load_kept(source, read_spec(source), tmp_path / "kept", quantization=quantization)
            _, packed = loaded(path, quantization)
            for key, weight in packed.items():
                if isinstance(weight, Weight):
                    assert kept[key].layout is weight.layout
                    np.testing.assert_array_equal(kept[key].data, weight.data)
    for thread in [thread for thread in threading.enumerate() if thread.name == "octavo-keep"]:
        thread.join()
    assert len(list((tmp_path / "kept").glob("*.packed"))) == 4


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1"])
def test_codes_are_not_quantized_again(tmp_path: Path, dtype: str) -> None:
    with open_source(tiny_llama.write_gguf(tmp_path / "x.gguf", dtype=dtype)) as source:
        with pytest.raises(InvalidValue, match="quantized already") as error:
            footprint(source, read_spec(source), "auto", "int4")
        assert error.value.field == "quantization"
        with pytest.raises(InvalidValue, match="none or int16 or int8 or int4"):
            footprint(source, read_spec(source), "auto", "int2")
