"""How byte-level vocabularies cut text into words before merging, by the names GGUF gives (`tokenizer.ggml.pre`).

Owns the patterns. Each pattern cuts every piece its forerunners left; matches and what lies between them become pieces
of their own. The patterns are those of the models' own tokenizer.json, in Oniguruma's syntax; the names, and which
names share a split, are llama.cpp's (src/llama-vocab.cpp). Knows no vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.errors import ModelError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # of English contractions
_SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACE
_QWEN2 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACE
_QWEN35 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACE
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"  # how a word starts: capitals and caseless letters
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*" + _SPACE
_GPT4O = (
    rf"{_UPPER}*{_LOWER}+{_SUFFIX}?|{_UPPER}+{_LOWER}*{_SUFFIX}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*" + _SPACE
)
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    + _SPACE
)


@dataclass(frozen=True, slots=True)
class Split:
    """patterns: applied in order. nfc: text is composed (Unicode NFC) first. whole_words: a word that is a token is
    taken as it is, without merging. add_bos: whether the text starts with bos where the file does not say."""

    patterns: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False
    add_bos: bool = False


_FAMILIES: tuple[tuple[tuple[str, ...], Split], ...] = (
    (("gpt-2", "phi-2"), Split((_GPT2,))),
    (("mpt", "olmo"), Split((_GPT2,), nfc=True)),
    (("smollm", "starcoder", "refact"), Split((r"\p{N}", _GPT2))),
    (("command-r",), Split((r"\p{N}", _GPT2), nfc=True)),
    (("falcon",), Split((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    (
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"),
        Split((_LLAMA3,), whole_words=True, add_bos=True),
    ),
    (("dbrx",), Split((_LLAMA3,))),
    (("glm4",), Split((_LLAMA3,), whole_words=True)),
    (("qwen2", "deepseek-r1-qwen"), Split((_QWEN2,), nfc=True)),
    (("qwen35",), Split((_QWEN35,), nfc=True)),
    (("tekken",), Split((_TEKKEN,), whole_words=True, add_bos=True)),
    (("gpt-4o", "llama4"), Split((_GPT4O,))),
    (("deepseek-coder",), Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"))),
    (("deepseek-v3",), Split((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3))),
    (("default",), Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
)
SPLITS: dict[str, Split] = {name: split for names, split in _FAMILIES for name in names}


def split_named(name: str) -> Split:
    """The split of that name. Raises ModelError that lists the names there are."""
    if name not in SPLITS:
        known = ", ".join(sorted(SPLITS))
        raise ModelError(f"tokenizer.ggml.pre: {name!r} is not a known pre-tokenizer; known are {known}")
    return SPLITS[name]
