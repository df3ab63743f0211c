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
# Letters with cases, but for some alphabets: those that DeepSeek's first tokenizer spells out.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
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
    (("stablelm2",), Split((_QWEN2,))),
    (("qwen35",), Split((_QWEN35,), nfc=True)),
    (("tekken",), Split((_TEKKEN,), whole_words=True, add_bos=True)),
    (("gpt-4o", "llama4"), Split((_GPT4O,))),
    (("deepseek-coder",), Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"))),
    (
        ("deepseek-llm",),
        Split((r"[\r\n]", rf"\s?[{_CASED}]+", rf"\s?[{_MARKS}]+", r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")),
    ),
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
