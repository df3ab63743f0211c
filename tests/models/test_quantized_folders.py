"""Whole models of quantized modules: the same tokens as from the plain numbers that the modules stand for."""

import json

import numpy as np
import pytest
import quantized_module as made
import safetensors_file
import tiny_llama
from op_cases import Texts

from octavo.checkpoint.source import open_source
from octavo.cli.main import main
from octavo.core.errors import ModelError
from octavo.kernels import native
from octavo.kernels.weight import Layout
from octavo.models.load import load, plan
from octavo.models.lower import lower
from octavo.models.packed import identity, load_kept
from octavo.models.registry import read_spec
from octavo.program.cpu import Cpu
from octavo.program.reference import Reference

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
WIDTH = {"layers": 1, "width": 128, "heads": 4, "kv_heads": 2, "inner": 128}


def quantized(path, choose):
    """A folder of which choose(name) says how a projection is quantized: (bits, group, symmetric, order), or None.

    order 0: groups lie side by side; else act-order, the same for the same number and size. Gives the folder, and the
    numbers its modules stand for.
    """
    random = np.random.default_rng(0)
    stored, meant = {}, {}
    for name, values in tiny_llama.weights(**WIDTH).items():
        choice = choose(name.rpartition(".")[0].rpartition(".")[2]) if "proj" in name else None
        if choice is None:
            stored[name], meant[name] = values, values
            continue
        bits, group, symmetric, ordered = choice
        rows, cols = values.shape
        columns = np.arange(cols) // group
        columns = np.random.default_rng(ordered).permutation(columns) if ordered else columns
        codes = random.integers(0, 1 << bits, values.shape)
        scale = (random.uniform(0.5, 1, (rows, cols // group)) / (1 << bits) / 4).astype(np.float16)
        zero = np.full(scale.shape, 1 << (bits - 1)) if symmetric else random.integers(1, 1 << bits, scale.shape)
        tensors = made.gptq(codes, scale, zero, columns, bits)
        stored |= {name.removesuffix(".weight") + part: value for part, value in tensors.items()}
        meant[name] = scale.astype(np.float32)[:, columns] * (codes - zero[:, columns])
    tiny_llama.write_folder(path, **WIDTH, config={"quantization_config": GPTQ})
    safetensors_file.write(path / "model.safetensors", stored)
    return path, meant


def loaded(path):
    with open_source(path) as source:
        spec = read_spec(source)
        return spec, load(source, spec)


def check(weights, meant, layouts):
    for name, (layout, group) in layouts.items():
        weight = weights[f"layers.0.{name}"]
        assert (weight.layout, weight.group) == (layout, group), name
        key = next(key for key in meant if f"{name}_proj" in key)
        np.testing.assert_allclose(weight.dequantize(), meant[key], atol=2e-3)


def test_every_projection_quantized(tmp_path, caplog):
    path, meant = quantized(tmp_path, lambda name: (4, 32, False, 0))
    spec, weights = loaded(path)
    names = ("q", "k", "v", "o", "gate", "up", "down")
    check(weights, meant, dict.fromkeys(names, (Layout.W4M, 32)))
    assert lower(spec, weights, kv_dtype="float32", max_len=64).ops
    assert caplog.messages == []


def test_matrices_that_read_one_input_agree_on_groups(tmp_path):
    """The q of one group size beside k and v of others, and codes of other widths: the same values in the smallest."""
    choices = {"q_proj": (4, 128, True, 0), "k_proj": (8, 64, True, 0), "v_proj": (4, 32, False, 0)}
    choices |= {"gate_proj": (8, 128, False, 0), "up_proj": (4, 64, True, 0)}
    path, meant = quantized(tmp_path, lambda name: choices.get(name))
    spec, weights = loaded(path)
    layouts = {"q": (Layout.W4, 32), "k": (Layout.W8, 32), "v": (Layout.W4M, 32)}
    check(weights, meant, layouts | {"gate": (Layout.W8M, 64), "up": (Layout.W4, 64), "o": (Layout.BF16, 0)})
    assert np.array_equal(weights["layers.0.q"].dequantize(), meant["model.layers.0.self_attn.q_proj.weight"])
    assert lower(spec, weights, kv_dtype="float32", max_len=64).ops


def test_codes_beside_plain_numbers_become_plain_numbers(tmp_path):
    """One of them not quantized, or in act-order."""
    choices = {"q_proj": (4, 32, True, 0), "gate_proj": (4, 32, True, 0), "up_proj": (4, 32, True, 1)}
    path, meant = quantized(tmp_path, lambda name: choices.get(name))
    spec, weights = loaded(path)
    check(weights, meant, dict.fromkeys(("q", "k", "v", "gate", "up"), (Layout.BF16, 0)))
    assert lower(spec, weights, kv_dtype="float32", max_len=64).ops


ORDERS = {"q_proj": 1, "k_proj": 1, "v_proj": 1, "o_proj": 2, "gate_proj": 3, "up_proj": 3, "down_proj": 4}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_act_order_keeps_its_codes_and_the_answers(tmp_path, bits, symmetric):
    """Beside the model of the same numbers, and on every instruction set beside the reference."""
    path, meant = quantized(tmp_path, lambda name: (bits, 32, symmetric, ORDERS[name]))
    spec, weights = loaded(path)
    layout = ((Layout.W4M, Layout.W4) if bits < 8 else (Layout.W8M, Layout.W8))[symmetric]
    names = ("q", "k", "v", "o", "gate", "up", "down")
    assert {weights[f"layers.0.{name}"].layout for name in names} == {layout}
    assert [bool(weights[f"layers.0.{name}"].order) for name in names] == [True] * 6 + [False]
    with open_source(path) as source:
        wide = load(source, spec, dtype="float32")
    got, want = logits(lower(spec, wide, kv_dtype="float32", max_len=64, exact=True)), logits(plain(tmp_path, meant))
    # Sums of float32 differ with the machine's BLAS; minima are rounded to float16.
    assert np.abs(got - want).max() < (3e-5 if symmetric else 3e-3) * want.std()
    program = lower(spec, weights, kv_dtype="float32", max_len=64)
    reference = logits(program)
    for isa in native.isas():  # a few codes of inputs are rounded the other way
        assert np.sqrt(np.mean((logits(program, isa) - reference) ** 2)) < 2e-3 * want.std(), isa


def test_orders_that_one_input_cannot_have_leave_plain_numbers(tmp_path, caplog, capsys):
    choices = {name: (4, 32, True, order) for name, order in (ORDERS | {"k_proj": 7, "up_proj": 0}).items()}
    path, meant = quantized(tmp_path, lambda name: choices.get(name))
    spec, weights = loaded(path)
    check(weights, meant, dict.fromkeys(("q", "k", "v"), (Layout.BF16, 0)))
    [line] = caplog.messages
    assert "5 of 11 weights, " in line and "run as BF16, " in line and "the first being layers.0.q:" in line
    assert main(["plan", str(path)]) == 0
    assert f"Note: {line.partition(': ')[2]}.\n" in capsys.readouterr().out
    found = {key: weights[f"layers.0.{key}"].layout for key in ("gate", "up", "o", "down")}
    assert found == {"gate": Layout.BF16, "up": Layout.BF16, "o": Layout.W4, "down": Layout.W4}
    with open_source(path) as source:
        exact = lower(spec, load(source, spec, dtype="float32"), kv_dtype="float32", max_len=64, exact=True)
    want = logits(plain(tmp_path, meant))
    assert np.abs(logits(exact) - want).max() < 1e-5 * want.std()


def test_kept_weights_know_their_order(tmp_path):
    path, _ = quantized(tmp_path, lambda name: (4, 32, True, ORDERS[name]))
    spec, weights = loaded(path)
    for _ in range(2):
        with open_source(path) as source:
            kept = load_kept(source, spec, tmp_path / "kept")
        for name in ("q", "k", "v", "o", "gate", "up", "down"):
            one, other = kept[f"layers.0.{name}"], weights[f"layers.0.{name}"]
            assert one.order == other.order and np.array_equal(one.data, other.data)


def plain(path, meant):
    """The program of a folder's numbers as such."""
    folder = tiny_llama.write_folder(path / "plain", **WIDTH)
    safetensors_file.write(folder / "model.safetensors", {key: np.float32(values) for key, values in meant.items()})
    with open_source(folder) as source:
        spec = read_spec(source)
        return lower(spec, load(source, spec, dtype="float32"), kv_dtype="float32", max_len=64, exact=True)


def logits(program, isa=None):
    """Of one text, in a prompt and two single steps; by the reference where isa is None."""
    rng = np.random.default_rng(0)
    texts = Texts.placed(rng, [np.arange(3, 24, dtype=np.int32)])
    executor = Reference(program) if isa is None else Cpu(program, 2, isa=isa)
    executor.allocate(texts.pages)
    out = [executor.logits(texts.batch(rng, [run], more=1)) for run in ((0, 0, 19), (0, 19, 1), (0, 20, 1))]
    executor.close()
    return np.concatenate(out)


def test_kept_weights_depend_on_the_settings(tmp_path):
    """The first version's zeros and the second's are the same tensors."""
    path, _ = quantized(tmp_path, lambda name: (4, 32, False, 0))
    heads = []
    for version in ("gptq", "gptq_v2"):
        config = json.loads((path / "config.json").read_text())
        config["quantization_config"]["checkpoint_format"] = version
        (path / "config.json").write_text(json.dumps(config))
        with open_source(path) as source:
            heads.append(identity(source, "auto", plan(source, read_spec(source), "auto")))
    assert heads[0] != heads[1]
    assert json.loads(json.dumps(heads[0]))


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "hqq"}, "quant_method: 'hqq' is not supported; expected gptq or awq"),
        ({"bits": 4}, "quant_method is missing"),
        ([4], "no object"),
        (GPTQ | {"bits": 5}, "bits: '5' is not supported; expected 2 or 3 or 4 or 8"),
        (GPTQ | {"bits": True}, "bits: 'True'"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format: 'marlin' is not supported; expected gptq or"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(tmp_path, quantization, words):
    path, _ = quantized(tmp_path, lambda name: (4, 32, False, 0))
    config = json.loads((path / "config.json").read_text()) | {"quantization_config": quantization}
    (path / "config.json").write_text(json.dumps(config))
    with open_source(path) as source, pytest.raises(ModelError, match=words) as caught:
        load(source, read_spec(source))
    assert len(str(caught.value).splitlines()) == 1
