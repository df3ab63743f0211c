"""Tokenizers rebuilt from GGUF metadata: equal to transformers, to a slow SentencePiece, and refused when damaged."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf_file
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from text_vocab import DATA, Held, read, smollm2, spm, tokenizer_of
from tokenizers import models, normalizers, pre_tokenizers, processors

from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError
from octavo.text.gguf_vocab import build_vocab
from octavo.text.splits import SPLITS
from octavo.text.tokenizer import load_tokenizer

LETTERS = ["Ġ", "a", "b", "c", "1", "Ã", "©", "Ì", "Ģ", "e", "<", ">", "'", "ab", "abc"]


def tiny(**more: Any) -> dict[str, Any]:
    """A byte-level vocabulary of a few letters; keys without their prefix."""
    keys = {"model": "gpt2", "pre": "gpt-2", "tokens": list(LETTERS), "merges": ["a b", "ab c"]} | more
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def tiny_spm(**more: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary of a few letters."""
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a"]
    keys = {"model": "llama", "tokens": tokens, "scores": [0.0] * 3 + [-9.0, -8.0, -7.0, -1.0, -2.0]} | more
    keys = {"token_type": [2, 3, 3, 1, 1, 1, 1, 1]} | keys
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def test_the_default_model_is_read_as_transformers_reads_it() -> None:
    tokenizer = smollm2()
    cases = read("smollm2_tokens.json")["encoded"]
    assert len(cases) > 200
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"], skip_special=False) == case["text"]
    # transformers' own reading leaves out the model's split of digits; it shows only where space runs into a digit,
    # or digits of several bytes meet
    unsplit = [case["text"] for case in cases if "unsplit" in case]
    assert "a   123" in unsplit and len(unsplit) < 20
    assert all(any(letter.isnumeric() for letter in text) for text in unsplit)


def test_token_ids_of_the_default_model_decode_as_transformers_decodes_them() -> None:
    tokenizer = smollm2()
    for case in read("smollm2_tokens.json")["decoded"]:
        assert tokenizer.decode(case["ids"], skip_special=False) == case["text"]
        assert tokenizer.decode(case["ids"]) == case.get("skipped", case["text"])


def test_the_default_model_has_its_marks() -> None:
    tokenizer = smollm2()
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (49152, 1, (2,))
    assert tokenizer.special_ids == frozenset(range(17))
    assert tokenizer.chat_template is not None and "SmolLM" in tokenizer.chat_template
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("name", [name for name in read("splits.json") if name != "texts"])
def test_text_is_cut_as_models_cut_it(name: str) -> None:
    expected = read("splits.json")
    vocab = build_vocab(tiny(pre=name))
    assert vocab is not None
    for text, lengths in zip(expected["texts"], expected[name], strict=True):
        pieces = vocab.backend.pre_tokenizer.pre_tokenize_str(text)
        assert [len(piece) for piece, _ in pieces] == lengths, text  # a letter for each byte


def test_every_named_split_can_be_built() -> None:
    for name, split in SPLITS.items():
        tokenizer = tokenizer_of(tiny(pre=name))
        assert tokenizer.decode(tokenizer.encode("abc a1b")) == "abc a1b"
        composed = tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
        assert composed == split.nfc, name


def test_words_that_are_tokens_are_taken_whole_where_the_split_says_so() -> None:
    without = tiny(pre="gpt-2", merges=["a b"])
    assert [len(tokenizer_of(without | {"tokenizer.ggml.pre": pre}).encode("abc")) for pre in ("gpt-2", "glm4")] == [
        2,
        1,
    ]


def test_small_sentencepiece_is_read_as_transformers_reads_it() -> None:
    tokenizer = spm()
    cases = read("spm_tokens.json")
    assert len(cases) > 200
    for case in cases:
        assert tokenizer.encode(case["text"], special=False) == case["ids"], case["text"]
        assert tokenizer.encode(case["text"]) == [1, *case["ids"]]
        if "\ufffd" not in case["decoded"]:
            assert tokenizer.decode(case["ids"], skip_special=False) == case["decoded"], case["text"]


def slow_spm(text: str, ids: dict[str, int], scores: list[float]) -> list[int]:
    """SentencePiece's merging, as llama.cpp does it: join the neighbours whose union scores best, the leftmost of
    equals, until none is a token; then what is no token is spelled in bytes. Marks in the text are not looked for."""
    symbols = list(("▁" + text if text else "").replace(" ", "▁"))
    while True:
        unions = [left + right for left, right in pairwise(symbols)]
        known = [(scores[ids[union]], -i) for i, union in enumerate(unions) if union in ids]
        if not known:
            break
        best = -max(known)[1]
        symbols[best : best + 2] = [unions[best]]
    out = []
    for symbol in symbols:
        out += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return out


SPM_KEYS = read("spm_vocab.json")
SPM_IDS = {
    token: i
    for i, token in enumerate(SPM_KEYS["tokenizer.ggml.tokens"])
    if SPM_KEYS["tokenizer.ggml.token_type"][i] in (1, 6)
}
SPM = spm()
SPM_PIECES = sorted(token.replace("▁", " ") for token in SPM_IDS if not token.startswith("<0x"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SPM_PIECES), st.text(max_size=3)), max_size=12).map("".join))
def test_sentencepiece_merges_as_its_scores_say(text: str) -> None:
    if not any(mark in text for mark in ("<unk>", "<s>", "</s>", "<|im_end|>")):
        assert SPM.encode(text, special=False) == slow_spm(text, SPM_IDS, SPM_KEYS["tokenizer.ggml.scores"])


def test_a_space_goes_in_front_only_where_the_file_wants_it() -> None:
    assert tokenizer_of(tiny_spm()).encode("a b", special=False) == [7, 3, 5]
    without = tokenizer_of(tiny_spm(add_space_prefix=False))
    assert without.encode("a b", special=False) == [4, 3, 5]
    assert without.decode([7]) == " a" and tokenizer_of(tiny_spm()).decode([7]) == "a"


def test_unused_pieces_are_not_made() -> None:
    assert tokenizer_of(tiny_spm()).encode("bab", special=False) == [3, 5, 6]
    assert tokenizer_of(tiny_spm(token_type=[2, 3, 3, 1, 1, 1, 5, 1])).encode("bab", special=False) == [3, 5, 4, 5]


def test_text_after_a_mark_starts_with_a_space_as_in_llama_cpp() -> None:
    assert tokenizer_of(tiny_spm()).encode("ab</s>a") == [1, 3, 6, 2, 7]


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        ({}, [1, 3, 6]),
        ({"add_bos_token": False}, [3, 6]),
        ({"add_eos_token": True}, [1, 3, 6, 2]),
        ({"add_bos_token": False, "add_eos_token": True, "eos_token_id": 1}, [3, 6, 1]),
    ],
)
def test_bos_and_eos_are_added_as_the_file_wants_it(flags: dict[str, Any], ids: list[int]) -> None:
    tokenizer = tokenizer_of(tiny_spm(**flags))
    assert tokenizer.encode("ab") == ids
    assert tokenizer.encode("ab", special=False) == [3, 6]


def test_bos_is_the_default_of_the_llama_3_split_only() -> None:
    ids = [len(tokenizer_of(tiny(pre=pre, bos_token_id=0)).encode("a")) for pre in ("gpt-2", "llama-bpe", "qwen2")]
    assert ids == [1, 2, 1]


def test_token_types_are_honoured() -> None:
    tokens = [*LETTERS, "<|a|>", "<b>", "<c>", "[PAD]"]
    types = [1] * len(LETTERS) + [3, 4, 1, 5]
    tokenizer = tokenizer_of(tiny(tokens=tokens, token_type=types, eos_token_id=len(LETTERS) + 2))
    control, own, plain, _ = range(len(LETTERS), len(tokens))
    assert tokenizer.encode("<|a|>") == [control] and tokenizer.encode("a<b>a") == [1, own, 1]
    assert tokenizer.special_ids == {control, plain}  # eos is special, whatever its type
    assert tokenizer.decode([1, control, own, plain]) == "a<b>"
    assert tokenizer.decode([1, control, own, plain], skip_special=False) == "a<|a|><b><c>"


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({"eos_token_id": 15}, (15, 16)),  # the turn's end is found by its name
        ({"eos_token_id": 15, "eot_token_id": 17}, (15, 17)),
        ({"eos_token_id": 15, "eot_token_id": 16, "eom_token_id": 17}, (15, 16, 17)),
        ({"eos_token_id": 16}, (16,)),
        ({"token_type": [1] * 18, "eos_token_id": 15}, (15,)),  # only a control token can be found
        ({}, (16,)),
    ],
)
def test_tokens_that_end_a_text(more: dict[str, Any], ends: tuple[int, ...]) -> None:
    tokens = [*LETTERS, "<|endoftext|>", "<|im_end|>", "<|other|>"]
    assert tokenizer_of(tiny(**{"tokens": tokens, "token_type": [1] * 15 + [3] * 3} | more)).eos_ids == ends


def test_an_empty_token_has_a_name_and_no_effect() -> None:
    tokenizer = tokenizer_of(tiny(tokens=[*LETTERS, ""]))
    assert tokenizer.vocab_size == 16 and tokenizer.encode("a") == [1]


@pytest.mark.parametrize("metadata", [{}, {"tokenizer.ggml.model": "none"}, {"tokenizer.ggml.model": "no_vocab"}])
def test_a_file_may_have_no_tokenizer(metadata: dict[str, Any]) -> None:
    assert load_tokenizer(Held(metadata=metadata)) is None


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (tiny(model="t5"), ["tokenizer.ggml.model", "'t5'", "gpt2", "llama", "bert"]),
        (tiny(pre="nonsense"), ["tokenizer.ggml.pre", "'nonsense'", "smollm", "qwen2"]),
        (tiny(pre=7), ["tokenizer.ggml.pre", "7"]),
        (tiny(tokens=None), ["tokenizer.ggml.tokens", "missing"]),
        (tiny(tokens=[]), ["tokenizer.ggml.tokens"]),
        (tiny(tokens=["a", 5]), ["tokenizer.ggml.tokens", "str"]),
        (tiny(tokens="abc"), ["tokenizer.ggml.tokens"]),
        (tiny(tokens=["a", "b", "a"]), ["tokenizer.ggml.tokens", "0 and 2", "'a'"]),
        (tiny(token_type=[1, 1]), ["tokenizer.ggml.token_type", "2 entries", "15 tokens"]),
        (tiny(merges=None), ["tokenizer.ggml.merges", "missing"]),
        (tiny(merges=["a b", "ab"]), ["tokenizer.ggml.merges", "entry 1"]),
        (tiny(merges=["a z"]), ["tokenizer.ggml", "z"]),
        (tiny(bos_token_id=15), ["tokenizer.ggml.bos_token_id", "15"]),
        (tiny(eos_token_id=-1), ["tokenizer.ggml.eos_token_id", "-1"]),
        (tiny(eos_token_id="a"), ["tokenizer.ggml.eos_token_id", "'a'"]),
        (tiny(add_bos_token="yes"), ["tokenizer.ggml.add_bos_token", "'yes'"]),
        (tiny() | {"tokenizer.chat_template": 5}, ["tokenizer.chat_template", "5"]),
        (tiny_spm(scores=None), ["tokenizer.ggml.scores", "missing"]),
        (tiny_spm(scores=[1.0]), ["tokenizer.ggml.scores", "8"]),
        (tiny_spm(scores=[float("nan")] * 8), ["tokenizer.ggml.scores"]),
        (tiny_spm(unknown_token_id=99), ["tokenizer.ggml.unknown_token_id", "99"]),
        (tiny_spm(tokens=["a"], scores=[0.0], token_type=[1]), ["tokenizer.ggml.bos_token_id", "1"]),
    ],
)
def test_damaged_metadata_is_named(metadata: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ModelError) as error:
        load_tokenizer(Held(metadata=metadata))
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message, message


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([tiny(bos_token_id=1, token_type=[1] * 15), tiny_spm(bos_token_id=1, unknown_token_id=0)]),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=3),
    st.sampled_from([None, -1, 0, 3, 2**70, 1.5, float("inf"), True, "", "x y", "\x00", [], [0], ["a"], [None], {}]),
)
def test_whatever_the_metadata_a_tokenizer_or_one_line_comes(base: Any, places: Any, value: Any) -> None:
    metadata = {key: list(held) if isinstance(held, list) else held for key, held in base.items()}
    for key, place in places:
        name = sorted(metadata)[key % len(metadata)]
        if isinstance(metadata[name], list) and metadata[name] and place:
            metadata[name][place % len(metadata[name])] = value
        else:
            metadata[name] = value
    message = "tokenizer."
    try:
        tokenizer = load_tokenizer(Held(metadata=metadata))
        assert tokenizer is None or isinstance(tokenizer.encode("ab <s>é"), list)
    except ModelError as error:
        message = str(error)
    assert "tokenizer." in message and "\n" not in message


def test_the_tokenizer_of_a_read_file_is_the_tokenizer_of_its_metadata(tmp_path: Path) -> None:
    metadata = read("spm_vocab.json")
    with open_source(gguf_file.write(tmp_path / "vocab.gguf", metadata, {})) as source:
        tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    for case in read("spm_tokens.json"):
        assert tokenizer.encode(case["text"], special=False) == case["ids"]


@pytest.mark.oracle
def test_text_fixtures_made_anew_equal_the_committed_ones(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA.parent / "make_text_fixtures.py", tmp_path], check=True)
    names = sorted(path.name for path in DATA.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name


@pytest.mark.parametrize("damage", [{"tokenizer.ggml.pre": "unheard-of"}, {"tokenizer.chat_template": 7}])
def test_errors_name_the_file(damage: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=rf"^{Held(metadata={}).path}: \S"):
        load_tokenizer(Held(metadata=tiny() | damage))


WORDS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##a", "##b", "ab", ",", "c", "##c", "é", "A"]


def tiny_words(*, old: bool = False, **more: Any) -> dict[str, Any]:
    """A vocabulary of words as llama.cpp's converter writes it; old: as it once did, with every [mark] as it is."""
    tokens = [
        word if word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") or (old and word[0] == "[") else "▁" + word
        for word in WORDS
    ]
    tokens = [token.removeprefix("▁##") for token in tokens]
    types = [3, 1, 3, 3, 3] + [1] * (len(WORDS) - 5)
    keys = {"model": "bert", "tokens": tokens, "token_type": types, "unknown_token_id": 2, "seperator_token_id": 4}
    keys |= {"cls_token_id": 3} if old else {"bos_token_id": 3, "eos_token_id": 4}
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | more).items() if value is not None}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("lower", [True, False])
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="abcABÉé, [SEP]\n漢", max_size=20))
def test_words_are_cut_as_by_the_vocabulary_they_come_from(old: bool, lower: bool, text: str) -> None:
    theirs = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=lower)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    theirs.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    theirs.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    vocab = build_vocab(tiny_words(old=old, **{"normalizer.lowercase": lower}))
    assert vocab is not None and vocab.size == len(WORDS)
    assert vocab.backend.encode(text).ids == theirs.encode(text).ids
    pair, wanted = vocab.backend.encode(text, "b"), theirs.encode(text, "b")
    assert (pair.ids, pair.type_ids) == (wanted.ids, wanted.type_ids)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tokens": ["▁a", "▁a"], "token_type": None}, "tokens 0 and 1 are both"),
        ({"tokens": ["a", "▁##a"], "token_type": None}, "seperator_token_id: 4 is not the id of one of the 2 tokens"),
        ({"tokens": ["▁a"] * 0}, "expected an array of str"),
        ({"unknown_token_id": 99}, "unknown_token_id: 99"),
        ({"normalizer.lowercase": 1}, "normalizer.lowercase: 1 is neither true nor false"),
    ],
)
def test_damaged_vocabularies_of_words_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_vocab(tiny_words(**more))
