"""From files to weights: the right numbers under the right names, and nothing read before everything is checked."""

from pathlib import Path

import gguf_file
import numpy as np
import pytest
import safetensors_file
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint import tensor as tensor_module
from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue, ModelError
from octavo.kernels.weight import Layout, Weight, from_bfloat16, to_bfloat16
from octavo.models import load as load_module
from octavo.models.load import footprint, load
from octavo.models.registry import read_spec

DATA = Path(__file__).parents[1] / "data"
SHAPE = {"layers": 2, "heads": 6, "kv_heads": 3, "head_dim": 32, "inner": 96}
PARTS = {
    "input_layernorm.weight": "attn_norm",
    "self_attn.q_proj.weight": "q",
    "self_attn.k_proj.weight": "k",
    "self_attn.v_proj.weight": "v",
    "self_attn.o_proj.weight": "o",
    "self_attn.q_proj.bias": "q_bias",
    "self_attn.k_proj.bias": "k_bias",
    "self_attn.v_proj.bias": "v_bias",
    "self_attn.o_proj.bias": "o_bias",
    "post_attention_layernorm.weight": "ffn_norm",
    "mlp.gate_proj.weight": "gate",
    "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
    "mlp.gate_proj.bias": "gate_bias",
    "mlp.up_proj.bias": "up_bias",
    "mlp.down_proj.bias": "down_bias",
}


def ours(name):
    """A Hugging Face name in our words."""
    whole = {"model.embed_tokens.weight": "embed", "model.norm.weight": "norm", "lm_head.weight": "head"}
    if name in whole:
        return whole[name]
    _, _, layer, part = name.split(".", 3)
    return f"layers.{layer}.{PARTS[part]}"


def loaded(path, dtype="auto", progress=None):
    with open_source(path) as source:
        spec = read_spec(source)
        expected = footprint(source, spec, dtype)
        weights = load(source, spec, dtype=dtype, progress=progress)
    assert sum(expected.values()) == sum(weight.nbytes for weight in weights.values())
    return weights


def numbers(weight):
    return weight.dequantize() if isinstance(weight, Weight) else weight


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["folder", "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_weights_are_those_that_were_written(tmp_path, kind, tied, bias):
    made = tiny_llama.weights(**SHAPE, tied=tied, bias=bias)
    if kind == "folder":
        path = tiny_llama.write_folder(tmp_path, **SHAPE, tied=tied, bias=bias, shards=2)
    else:
        path = tiny_llama.write_gguf(tmp_path / "x.gguf", **SHAPE, tied=tied, bias=bias, dtype=kind)
    weights = loaded(path, "float32")
    assert set(weights) == {ours(name) for name in made}
    for name, values in made.items():
        weight = weights[ours(name)]
        if values.ndim == 1:
            assert isinstance(weight, np.ndarray)
            assert weight.dtype == np.float32
            assert np.array_equal(weight, values), name
            continue
        stored = "F32" if kind == "folder" else kind
        if kind.startswith("Q"):
            stored = "Q8_0" if ours(name) in ("embed", "head") else kind
        exact = gguf_file.decode(stored, gguf_file.encode(stored, values), values.shape)
        assert np.array_equal(weight.dequantize(), exact), name


def test_q_and_k_of_a_gguf_come_back_in_the_order_of_hugging_face(tmp_path):
    """The file has each head's rows alternating between its halves; without undoing it the rows would differ."""
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", **SHAPE, dtype="F32", bias=True)
    made = tiny_llama.weights(**SHAPE, bias=True)
    with open_source(path) as source:
        raw = source.tensors["blk.0.attn_q.weight"].read().view(np.float32).reshape(192, 64)
        weights = load(source, read_spec(source), dtype="float32")
    q = made["model.layers.0.self_attn.q_proj.weight"]
    assert np.array_equal(raw[0], q[0])
    assert np.array_equal(raw[1], q[16])  # the second half's first row
    assert np.array_equal(weights["layers.0.q"].dequantize(), q)
    assert np.array_equal(weights["layers.0.k_bias"], made["model.layers.0.self_attn.k_proj.bias"])


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_dtype_speaks_of_unquantized_matrices(tmp_path, stored, dtype):
    made = tiny_llama.weights()
    weights = loaded(tiny_llama.write_folder(tmp_path, dtype=stored), dtype)
    kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[stored]
    for name, values in made.items():
        exact = gguf_file.decode(kind, gguf_file.encode(kind, values), values.shape)
        weight = weights[ours(name)]
        if values.ndim == 2:
            assert weight.layout is (Layout.F32 if dtype == "float32" else Layout.BF16)
            exact = exact if dtype == "float32" else from_bfloat16(to_bfloat16(exact))
        assert np.array_equal(numbers(weight), exact)


@pytest.mark.parametrize(
    ("stored", "dtype", "kept"),
    [
        ("sentences/mean", "auto", "F32 W16"),  # no group divides some of its inputs
        ("sentences/mean", "float32", "F32"),
        ("sentences/mean", "bfloat16", "BF16"),
        ("zoo/bert", "auto", "BF16"),
        ("sentences/last-two-dense", "auto", "BF16"),
    ],
)
def test_encoders_keep_what_their_files_say(stored, dtype, kept):
    """The fourth is stored in bfloat16, the last, in float32, is a decoder."""
    weights = loaded(DATA / stored, dtype)
    assert {weight.layout for weight in weights.values() if isinstance(weight, Weight)} == {
        Layout[name] for name in kept.split()
    }


def test_dtype_leaves_quantized_matrices_alone(tmp_path):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q4_1")
    for dtype in ("auto", "float32"):
        weights = loaded(path, dtype)
        assert weights["embed"].layout is Layout.W8
        assert weights["layers.0.q"].layout is Layout.W4M
    with open_source(path) as source, pytest.raises(InvalidValue, match="auto or bfloat16 or float32"):
        load(source, read_spec(source), dtype="int8")


def test_progress_grows_to_one(tmp_path):
    seen = []
    loaded(tiny_llama.write_gguf(tmp_path / "x.gguf"), progress=seen.append)
    assert len(seen) == 20
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_the_footprint_is_by_category_and_needs_no_data(tmp_path, monkeypatch):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", tied=False)
    monkeypatch.setattr(tensor_module.Tensor, "read", None)
    with open_source(path) as source:
        parts = footprint(source, read_spec(source))
    w8, w4m = 64 + 32 * 32, 128 + 32 * 16  # bytes of 32 outputs by 32 inputs
    assert parts == {
        "embedding": 8 * 2 * w8,  # 256 x 64
        "head": 8 * 2 * w8,
        "attention": 2 * (4 * 2 + 2 * 2 + 2 * 2 + 2 * 4) * w4m,  # q 128 x 64, k and v 64 x 64, o 64 x 128
        "feed_forward": 2 * (4 * 2 + 4 * 2 + 2 * 4) * w4m,  # gate and up 128 x 64, down 64 x 128
        "norms_and_biases": 5 * 64 * 4,
    }


def test_weights_outlive_their_file(tmp_path):
    path = tiny_llama.write_folder(tmp_path, dtype="float32")
    weights = loaded(path, "float32")
    (path / "model.safetensors").write_bytes(b"")
    made = tiny_llama.weights()
    assert np.array_equal(weights["embed"].dequantize(), made["model.embed_tokens.weight"])
    assert np.array_equal(weights["norm"], made["model.norm.weight"])


def folder_with(path, change, **options):
    """A model folder whose tensors a function has changed."""
    tiny_llama.write_folder(path, **options)
    made = tiny_llama.weights(**{key: value for key, value in options.items() if key != "config"})
    change(made)
    safetensors_file.write(path / "model.safetensors", made)
    return path


@pytest.fixture
def nothing_is_packed(monkeypatch):
    """What is refused must be refused from headers."""

    def read(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(load_module, "read", read)


def refused(path, words, dtype="auto"):
    with open_source(path) as source:
        spec = read_spec(source)
        for attempt in (load, footprint):
            with pytest.raises(ModelError, match=words) as caught:
                attempt(source, spec, dtype=dtype)
            text = str(caught.value)
            assert str(source.path) in text
            assert len(text.splitlines()) == 1
            assert len(text) < 1200


@pytest.mark.usefixtures("nothing_is_packed")
def test_missing_tensors_are_listed(tmp_path):
    def change(made):
        del made["model.norm.weight"], made["model.layers.1.mlp.up_proj.weight"]

    refused(folder_with(tmp_path, change), r"missing: 'model\.layers\.1\.mlp\.up_proj\.weight', 'model\.norm\.weight'$")


@pytest.mark.usefixtures("nothing_is_packed")
def test_long_lists_are_shortened(tmp_path):
    refused(
        folder_with(tmp_path, lambda made: [made.pop(name) for name in list(made) if ".mlp." in name]),
        r"missing: ('[^']+', ){3}'[^']+' and 2 more$",
    )


@pytest.mark.usefixtures("nothing_is_packed")
def test_unexpected_tensors_are_listed(tmp_path):
    def change(made):
        made["model.layers.0.self_attn.q_norm.weight"] = np.ones(32, np.float32)
        made["model.layers.2.mlp.up_proj.weight"] = np.ones((128, 64), np.float32)

    refused(folder_with(tmp_path, change), r"unexpected: .*q_norm\.weight', 'model\.layers\.2\.mlp\.up_proj\.weight'$")


@pytest.mark.usefixtures("nothing_is_packed")
def test_biases_that_the_settings_do_not_have_are_refused(tmp_path):
    path = tiny_llama.write_folder(tmp_path, bias=True, config={"mlp_bias": False})
    refused(path, r"unexpected: .*gate_proj\.bias'")


@pytest.mark.usefixtures("nothing_is_packed")
def test_misshapen_tensors_are_listed_with_both_shapes(tmp_path):
    def change(made):
        made["model.norm.weight"] = np.ones(63, np.float32)
        made["model.embed_tokens.weight"] = np.ones((64, 256), np.float32)
        made["model.layers.0.self_attn.q_proj.weight"] = np.ones((128, 64, 1), np.float32)

    refused(
        folder_with(tmp_path, change),
        r"embed_tokens\.weight' has the shape \[64, 256\], expected \[256, 64\], .*q_proj\.weight' has the shape "
        r"\[128, 64, 1\], expected \[128, 64\], .*norm\.weight' has the shape \[63\], expected \[64\]$",
    )


@pytest.mark.usefixtures("nothing_is_packed")
def test_types_that_cannot_be_kept_are_named(tmp_path):
    path = tiny_llama.write_gguf(
        tmp_path / "x.gguf", width=256, tensors={"output.weight": ("Q8_K", (256, 256), bytes(256 * 292))}
    )
    refused(path, "'output.weight' is stored as Q8_K; read are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, .*, MXFP4$")
    norm = {"output_norm.weight": ("Q8_0", (64,), bytes(68))}
    refused(
        tiny_llama.write_gguf(tmp_path / "y.gguf", tensors=norm), "stored as Q8_0; vectors are read as F32, F16, BF16"
    )
    refused(
        folder_with(tmp_path / "f", lambda made: made.update({"model.norm.weight": ("F64", (64,), bytes(512))})),
        "'model.norm.weight' is stored as F64",
    )
    refused(
        folder_with(
            tmp_path / "g",
            lambda made: made.update({"model.embed_tokens.weight": ("F8_E4M3", (256, 64), bytes(16384))}),
        ),
        "stored as F8_E4M3",
    )


@pytest.mark.usefixtures("nothing_is_packed")
def test_a_model_of_lying_size_is_refused_without_allocating(tmp_path):
    path = tiny_llama.write_folder(tmp_path, config={"vocab_size": 2**31 - 1, "intermediate_size": 2**31 - 1})
    refused(path, r"expected \[2147483647, 64\]")


def test_harmless_extras_are_let_be(tmp_path):
    def change(made):
        made["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(16, np.float32)
        made["model.rotary_emb.inv_freq"] = np.ones(16, np.float32)
        made["lm_head.weight"] = made["model.embed_tokens.weight"].copy()

    assert "head" not in loaded(folder_with(tmp_path / "f", change))
    freqs = {"rope_freqs.weight": ("F32", (16,), np.ones(16, np.float32).tobytes())}
    assert set(loaded(tiny_llama.write_gguf(tmp_path / "x.gguf", tensors=freqs))) == set(loaded(tmp_path / "f"))


def test_an_untied_head_is_not_optional(tmp_path):
    refused(tiny_llama.write_folder(tmp_path, tied=True, config={"tie_word_embeddings": False}), r"'lm_head\.weight'$")


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_values_that_are_no_numbers_are_refused_by_name(tmp_path, name):
    def change(made):
        made[name][-1] = np.nan

    with open_source(folder_with(tmp_path, change)) as source:
        spec = read_spec(source)
        with pytest.raises(ModelError, match=rf"model\.safetensors: tensor '{name}' holds NaN or infinity") as caught:
            load(source, spec)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    shape = {"layers": 1, "heads": 2, "kv_heads": 1, "inner": 64, "vocab": 32}
    gguf = tiny_llama.write_gguf(
        folder / "x.gguf", **shape, tensors={"rope_freqs.weight": ("F32", (16,), b"\0\0\x80?" * 16)}
    )
    model = tiny_llama.write_folder(folder / "model", **shape)
    return folder, gguf.read_bytes(), (model / "model.safetensors").read_bytes(), (model / "config.json").read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_model_is_loaded_or_refused_from_end_to_end(small_files, data):
    folder, gguf, weights, config = small_files
    victim = data.draw(st.sampled_from(["gguf", "weights", "config"]))
    raw = bytearray({"gguf": gguf, "weights": weights, "config": config}[victim])
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    reach = min(len(raw), 3000)
    for at in data.draw(st.lists(st.integers(0, reach - 1), max_size=3)) if reach else ():
        raw[at] = data.draw(st.integers(0, 255))
    path = {"gguf": folder / "damaged.gguf"}.get(victim, folder / "damaged")
    if victim == "gguf":
        path.unlink(missing_ok=True)
        path.write_bytes(raw)
    else:
        path.mkdir(exist_ok=True)
        for name, whole in (("model.safetensors", weights), ("config.json", config)):
            (path / name).unlink(missing_ok=True)
            (path / name).write_bytes(raw if name.startswith("model") == (victim == "weights") else whole)
    message = ""
    try:
        loaded(path)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message
