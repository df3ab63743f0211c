"""What a checkpoint declares becomes a ModelSpec, from either file format; what is malformed names its field."""

import json

import numpy as np
import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.source import Source, open_source
from octavo.core.errors import ModelError
from octavo.models.registry import read_spec
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm, Rope

EXPECTED = ModelSpec(
    vocab=256,
    width=64,
    layers=(Layer(Attn(4, 2, 32, Rope(10000.0)), Mlp(128), Norm(1e-5)),) * 2,
    norm=Norm(1e-5),
    tied=True,
    max_len=512,
    eos_ids=(2,),
    bos_id=1,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return json.loads((tiny_llama.write_folder(tmp_path_factory.mktemp("c")) / "config.json").read_text())


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    with open_source(tiny_llama.write_gguf(tmp_path_factory.mktemp("g") / "x.gguf")) as source:
        return dict(source.metadata), dict(source.tensors)


def spec_of(config, tmp_path, **changes):
    values = {key: value for key, value in (config | changes).items() if value != "absent"}
    return read_spec(Source(tmp_path, "safetensors", {}, values, {}))


def gguf_spec_of(metadata, tmp_path, changes=None, tensors=None):
    keys, kept = metadata
    values = {key: value for key, value in (keys | (changes or {})).items() if value != "absent"}
    return read_spec(Source(tmp_path / "x.gguf", "gguf", values, {}, kept | (tensors or {})))


def close(spec):
    """A GGUF keeps its numbers in float32."""
    norm = Norm(float(np.round(spec.norm.eps, 9)))
    layers = tuple(Layer(layer.attn, layer.ffn, norm) for layer in spec.layers)
    fields = {name: getattr(spec, name) for name in ("vocab", "width", "tied", "max_len", "eos_ids", "bos_id")}
    return ModelSpec(layers=layers, norm=norm, **fields)


def test_a_folder(tmp_path):
    with open_source(tiny_llama.write_folder(tmp_path)) as source:
        assert read_spec(source) == EXPECTED


def test_a_gguf(tmp_path):
    with open_source(tiny_llama.write_gguf(tmp_path / "x.gguf")) as source:
        assert close(read_spec(source)) == EXPECTED


def test_both_formats_declare_the_same_model(tmp_path):
    shape = {"bias": True, "tied": False, "heads": 6, "kv_heads": 3, "head_dim": 64, "theta": 500000.0}
    with open_source(tiny_llama.write_folder(tmp_path / "f", **shape)) as source:
        folder = read_spec(source)
    with open_source(tiny_llama.write_gguf(tmp_path / "x.gguf", **shape)) as source:
        assert close(read_spec(source)) == folder
    attn = folder.layers[0].attn
    assert (attn.heads, attn.kv_heads, attn.head_dim, attn.rope.theta) == (6, 3, 64, 500000.0)
    assert attn.qkv_bias
    assert attn.out_bias
    assert folder.layers[0].ffn.bias
    assert not folder.tied


def test_what_may_be_left_out(config, tmp_path):
    names = ("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "attention_bias", "mlp_bias")
    names += ("tie_word_embeddings", "hidden_act", "rope_theta", "bos_token_id", "eos_token_id")
    spec = spec_of(config, tmp_path, **dict.fromkeys(names, "absent"))
    attn = spec.layers[0].attn
    assert (attn.heads, attn.kv_heads, attn.head_dim) == (4, 4, 16)
    assert (spec.norm.eps, spec.max_len, spec.tied, spec.eos_ids, spec.bos_id) == (1e-6, 2048, False, (), None)
    assert attn.rope == Rope(10000.0)
    assert spec == spec_of(config, tmp_path, **dict.fromkeys(names))  # null is as good as absent


def test_what_a_gguf_may_leave_out(metadata, tmp_path):
    names = ("llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length")
    names += ("llama.rope.dimension_count", "llama.rope.freq_base", "llama.vocab_size")
    names += ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
    spec = gguf_spec_of(metadata, tmp_path, dict.fromkeys(names, "absent"))
    attn = spec.layers[0].attn
    assert (attn.heads, attn.kv_heads, attn.head_dim, attn.rope.theta) == (4, 4, 16, 10000.0)
    assert (spec.vocab, spec.eos_ids, spec.bos_id) == (256, (), None)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
ROPES = [
    ({}, Rope(10000.0)),
    ({"rope_scaling": None, "rope_theta": 5e5}, Rope(5e5)),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, Rope(10000.0, "linear", 2.0)),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.5}}, Rope(10000.0, "linear", 2.5)),
    ({"rope_scaling": {"rope_type": "llama3"} | LLAMA3}, Rope(10000.0, "llama3", 8.0, 1.0, 4.0, 256)),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}, Rope(7e4)),
    ({"rope_parameters": {"rope_theta": 7e4}}, Rope(7e4)),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5} | LLAMA3}, Rope(5.0, "llama3", 8.0, 1.0, 4.0, 256)),
    ({"rope_parameters": {"rope_type": "linear", "factor": 4}}, Rope(10000.0, "linear", 4.0)),
    ({"partial_rotary_factor": 1.0}, Rope(10000.0)),
]


@pytest.mark.parametrize(("changes", "rope"), ROPES)
def test_rope_in_both_ways_of_writing_it(config, tmp_path, changes, rope):
    assert spec_of(config, tmp_path, **changes).layers[0].attn.rope == rope


GGUF_ROPES = [
    ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, Rope(10000.0)),
    ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, Rope(10000.0, "linear", 4.0)),
    ({"llama.rope.scaling.factor": 4.0}, Rope(10000.0, "linear", 4.0)),
    ({"llama.rope.scale_linear": 4.0}, Rope(10000.0, "linear", 4.0)),
    ({"llama.rope.scaling.factor": 0.0}, Rope(10000.0)),
    ({"llama.rope.scaling.type": "linear"}, Rope(10000.0)),
]


@pytest.mark.parametrize(("changes", "rope"), GGUF_ROPES)
def test_rope_of_a_gguf(metadata, tmp_path, changes, rope):
    assert gguf_spec_of(metadata, tmp_path, changes).layers[0].attn.rope == rope


def test_llama3_scaling_of_a_gguf_is_a_tensor_of_divisors(tmp_path):
    divisors = np.linspace(1, 8, 16, dtype=np.float32)
    tensors = {"rope_freqs.weight": ("F32", (16,), divisors.tobytes())}
    with open_source(tiny_llama.write_gguf(tmp_path / "x.gguf", tensors=tensors)) as source:
        assert read_spec(source).layers[0].attn.rope == Rope(10000.0, divisors=tuple(divisors.tolist()))


@pytest.mark.parametrize("values", [[1.0] * 15, [1.0] * 15 + [0.0], [1.0] * 15 + [-1.0], [1.0] * 15 + [float("nan")]])
def test_wrong_divisors_are_refused(tmp_path, values):
    tensors = {"rope_freqs.weight": ("F32", (len(values),), np.array(values, np.float32).tobytes())}
    with (
        open_source(tiny_llama.write_gguf(tmp_path / "x.gguf", tensors=tensors)) as source,
        pytest.raises(ModelError, match=r"rope_freqs\.weight"),
    ):
        read_spec(source)


def test_every_id_that_ends_the_text(config, tmp_path):
    assert spec_of(config, tmp_path, eos_token_id=[7, 2]).eos_ids == (7, 2)
    folder = tiny_llama.write_folder(tmp_path / "f", config={"eos_token_id": [7, 2]})
    for stated, expected in ((9, (9, 7, 2)), ([2, 9], (2, 9, 7)), (None, (7, 2))):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated, "temperature": 0.6}))
        with open_source(folder) as source:
            assert read_spec(source).eos_ids == expected
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with open_source(folder) as source, pytest.raises(ModelError, match=r"eos_token_id \(generation_config\.json\)"):
        read_spec(source)


def test_every_id_that_ends_the_text_of_a_gguf(metadata, tmp_path):
    eot = {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 6}
    assert gguf_spec_of(metadata, tmp_path, eot).eos_ids == (2, 5, 6)
    words = {"tokenizer.ggml.tokens": ["<|eot_id|>", "a", "b", "<|im_end|>"], "tokenizer.ggml.token_type": [1, 1, 1, 3]}
    assert gguf_spec_of(metadata, tmp_path, words).eos_ids == (2, 3)  # as text, <|eot_id|> ends nothing
    assert gguf_spec_of(metadata, tmp_path, words | eot).eos_ids == (2, 5, 6)


WRONG = [
    (
        {"architectures": ["MistrelForCausalLM"]},
        r"'MistrelForCausalLM' is not supported; the nearest of \d+ known are MistralForCausalLM, .*no file that",
    ),
    (
        {"architectures": ["LlamaForTokenClassification"]},
        "of this family there is LlamaForCausalLM, and the head of 'LlamaForTokenClassification' is missing",
    ),
    ({"architectures": ["gpt2"]}, "'gpt2' is not supported; known, but not in this kind of file"),
    ({"architectures": "absent"}, "architectures is missing"),
    ({"architectures": []}, "architectures is missing"),
    ({"architectures": [3]}, "architectures is missing or not a name"),
    ({"architectures": "LlamaForCausalLM"}, "architectures is missing or not a name"),
    ({"hidden_size": "absent"}, "hidden_size is missing; expected an integer"),
    ({"hidden_size": 0}, "hidden_size: 0 is not supported"),
    ({"hidden_size": -64}, "hidden_size: -64"),
    ({"hidden_size": 64.0}, r"hidden_size: 64\.0"),
    ({"hidden_size": "64"}, "hidden_size: '64'"),
    ({"hidden_size": True}, "hidden_size: True"),
    ({"hidden_size": 10**30}, "hidden_size: 1000"),
    ({"intermediate_size": [1, 2]}, r"intermediate_size: \[1, 2\]"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: 0"),
    ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers: 2147483647 .* from 1 to 10000"),
    ({"num_attention_heads": 0}, "num_attention_heads: 0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads: 3 .* a divisor of the number of heads, which is 4"),
    ({"num_key_value_heads": 8}, "num_key_value_heads: 8"),
    (
        {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None},
        "num_attention_heads: 5 .* width, which is",
    ),
    ({"head_dim": 31}, "head_dim: 31 .* an even number"),
    ({"head_dim": 0}, "head_dim: 0"),
    ({"vocab_size": {}}, "vocab_size: {}"),
    ({"max_position_embeddings": -1}, "max_position_embeddings: -1"),
    ({"rms_norm_eps": 0}, "rms_norm_eps: 0 .* a number above 0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan"),
    ({"rms_norm_eps": float("inf")}, "rms_norm_eps: inf"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps: 1000"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps: '1e-5'"),
    ({"rope_theta": -1.0}, "rope_theta: -1.0"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings: 1 .* true or false"),
    ({"attention_bias": "no"}, "attention_bias: 'no'"),
    ({"mlp_bias": []}, r"mlp_bias: \[\]"),
    ({"bos_token_id": 256}, "bos_token_id: 256 .* token ids from 0 to 255"),
    ({"eos_token_id": -1}, "eos_token_id: -1"),
    ({"eos_token_id": [2, "x"]}, r"eos_token_id: \[2, 'x'\]"),
    ({"hidden_act": "tanh"}, "hidden_act: 'tanh' is not supported; expected silu, swish, gelu"),
    ({"num_local_experts": 8}, "num_experts_per_tok is missing"),
    ({"sliding_window": 100}, "sliding_window: 100 .* at least the context, which is 512"),
    ({"sliding_window": "no"}, "sliding_window: 'no'"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: .* full_attention everywhere"),
    ({"layer_types": 3}, "layer_types: 3"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    ({"rope_scaling": "linear"}, "rope_scaling: 'linear' .* an object"),
    (
        {"rope_scaling": {"type": "ntk", "factor": 4.0}},
        r"rope_scaling\.type: 'ntk' .* default, linear, dynamic, llama3",
    ),
    ({"rope_scaling": {"rope_type": "longrope"}}, r"rope_scaling\.short_factor is missing; expected 16 numbers"),
    ({"rope_scaling": {"type": "yarn", "beta_fast": -1}}, r"rope_scaling\.beta_fast: -1"),
    ({"rope_scaling": {"rope_type": ["linear"]}}, r"rope_scaling\.rope_type"),
    ({"rope_scaling": {"rope_type": "linear"}}, r"rope_scaling\.factor is missing"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, r"rope_scaling\.factor: 0"),
    ({"rope_scaling": {"rope_type": "llama3"} | LLAMA3 | {"factor": None}}, r"rope_scaling\.factor is missing"),
    (
        {"rope_scaling": {"rope_type": "llama3"} | LLAMA3 | {"low_freq_factor": 4}},
        r"rope_scaling\.low_freq_factor: 4 .* less",
    ),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters: .* the same for all layers"),
    ({"rope_parameters": {"rope_theta": 0}}, r"rope_parameters\.rope_theta: 0"),
    (
        {"rope_parameters": {"partial_rotary_factor": 0.25}},
        r"rope_parameters: .*0\.25.* expected 32, all dims of a head",
    ),
    (
        {"rope_parameters": {"partial_rotary_factor": 0.3}},
        r"rope_parameters\.partial_rotary_factor: 0.3 .* even number",
    ),
    ({"rope_parameters": {"divisors": "ab"}}, r"rope_parameters\.divisors: 'ab'"),
    (
        {"rope_parameters": {"factor": 1.0}, "rope_scaling": {"factor": 2.0}},
        "rope_scaling: .* none beside rope_parameters",
    ),
]


@pytest.mark.parametrize(
    ("changes", "words"), WRONG, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_a_wrong_field_is_named(config, tmp_path, changes, words):
    with pytest.raises(ModelError, match=words) as caught:
        spec_of(config, tmp_path, **changes)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert len(text.splitlines()) == 1
    assert len(text) < 500


GGUF_WRONG = [
    ({"general.architecture": "lama"}, "general.architecture: 'lama' is not supported; the nearest of .* are llama"),
    ({"general.architecture": "absent"}, "general.architecture is missing"),
    ({"general.architecture": 7}, "general.architecture is missing or not a name"),
    ({"llama.embedding_length": "absent"}, "llama.embedding_length is missing"),
    ({"llama.context_length": "absent"}, "llama.context_length is missing"),
    ({"llama.attention.layer_norm_rms_epsilon": "absent"}, "llama.attention.layer_norm_rms_epsilon is missing"),
    ({"llama.attention.head_count_kv": 3}, "llama.attention.head_count_kv: 3"),
    ({"llama.attention.head_count_kv": [2, 2]}, r"llama.attention.head_count_kv: \[2, 2\]"),
    ({"llama.attention.value_length": 16}, "llama.attention.value_length: 16 .* expected 32"),
    ({"llama.rope.dimension_count": 16}, "llama.rope.dimension_count: 16 .* expected 32"),
    ({"llama.attention.sliding_window": "64"}, "llama.attention.sliding_window: '64'"),
    ({"llama.attention.causal": False}, "llama.attention.causal: False"),
    ({"llama.expert_count": 8}, "llama.expert_used_count is missing"),
    ({"llama.expert_count": 8, "llama.expert_used_count": 9}, "llama.expert_used_count: 9 .* from 1 to 8"),
    ({"llama.rope.scaling.type": "longrope"}, "rope_factors_short.weight is missing"),
    ({"llama.rope.scaling.type": "ntk"}, "llama.rope.scaling.type: 'ntk'"),
    ({"llama.rope.scaling.factor": -2.0}, "llama.rope.scaling.factor: -2.0"),
    ({"llama.block_count": 0}, "llama.block_count: 0"),
    ({"tokenizer.ggml.eos_token_id": 9999}, "tokenizer.ggml.eos_token_id"),
]


@pytest.mark.parametrize(
    ("changes", "words"), GGUF_WRONG, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_a_wrong_key_of_a_gguf_is_named_as_the_file_writes_it(metadata, tmp_path, changes, words):
    with pytest.raises(ModelError, match=words) as caught:
        gguf_spec_of(metadata, tmp_path, changes)
    assert len(str(caught.value).splitlines()) == 1


def test_mistral_is_llama_with_a_window(config, tmp_path):
    mistral = config | {"architectures": ["MistralForCausalLM"]}
    spec = spec_of(mistral, tmp_path, sliding_window=None)
    assert spec == EXPECTED
    assert spec_of(mistral, tmp_path, sliding_window=512) == EXPECTED
    long = spec_of(mistral, tmp_path, max_position_embeddings=8192)
    assert [layer.attn.window for layer in long.layers] == [4096, 4096], "what Mistral completes"
    assert [layer.attn.window for layer in spec_of(mistral, tmp_path, sliding_window=511).layers] == [511, 511]
    kinds = ["full_attention", "sliding_attention"]
    mixed = spec_of(mistral, tmp_path, sliding_window=9, layer_types=kinds)
    assert [layer.attn.window for layer in mixed.layers] == [0, 9]
    for changes, words in [
        ({"sliding_window": -1}, "sliding_window: -1"),
        ({"sliding_window": None, "layer_types": kinds}, "sliding_window is missing; expected an integer above 0"),
        ({"sliding_window": 9, "layer_types": kinds[:1]}, "layer_types: .* a list of 2, each 'full_attention' or"),
        ({"sliding_window": None, "num_key_value_heads": None}, "num_key_value_heads is missing"),
        ({"sliding_window": None, "max_position_embeddings": None}, "max_position_embeddings is missing"),
    ]:
        with pytest.raises(ModelError, match=words):
            spec_of(mistral, tmp_path, **changes)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_junk_in_any_field_is_read_or_refused(config, data, tmp_path_factory):
    names = st.sampled_from([*config, "rope_scaling", "rope_parameters", "sliding_window", "layer_types"])
    changes = data.draw(st.dictionaries(names, JUNK, min_size=1, max_size=3))
    message = ""
    try:
        assert isinstance(spec_of(config, tmp_path_factory.getbasetemp(), **changes), ModelSpec)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_junk_in_any_key_of_a_gguf_is_read_or_refused(metadata, data, tmp_path_factory):
    more = ["llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.expert_count", "tokenizer.ggml.tokens"]
    more += ["tokenizer.ggml.token_type", "tokenizer.ggml.eot_token_id", "llama.attention.sliding_window"]
    changes = data.draw(st.dictionaries(st.sampled_from([*metadata[0], *more]), JUNK, min_size=1, max_size=3))
    message = ""
    try:
        assert isinstance(gguf_spec_of(metadata, tmp_path_factory.getbasetemp(), changes), ModelSpec)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message
