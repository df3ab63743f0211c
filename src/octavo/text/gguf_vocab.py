"""Tokenizers rebuilt from the metadata of a GGUF file (`tokenizer.ggml.*`).

Owns the reading of that metadata; the invariant: token i of the file has id i. Three kinds are built, as pipelines of
the `tokenizers` library: "gpt2", byte-level BPE with a named split (splits.py); "llama", SentencePiece BPE, whose
merges are recovered from the scores; "bert", words and their parts. Does not know the rest of the file, nor how ids
are used.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md; meaning: llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from octavo.core.errors import ModelError
from octavo.text.splits import split_named

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type; 5 is unused, 6 a byte
SPACE = "▁"  # how SentencePiece writes a space
# Tokens that end a turn, for files that do not name theirs.
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")


@dataclass(frozen=True, slots=True)
class GgufVocab:
    """A rebuilt tokenizer of `size` tokens. `eos_ids` end a text; the first is the file's own eos, where it has one."""

    backend: Tokenizer
    size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]


def build_vocab(metadata: Mapping[str, Any]) -> GgufVocab | None:
    """The tokenizer a GGUF file describes; None where it has none. Raises ModelError, naming the key at fault."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return None
    if kind not in ("gpt2", "llama", "bert"):
        raise ModelError(f"tokenizer.ggml.model: {kind!r} is not supported; supported are gpt2, llama and bert")
    fields = _Fields(metadata)
    if kind == "bert":
        return _words(fields)
    spm = kind == "llama"
    bos, eos = fields.token("bos_token_id", 1 if spm else None), fields.token("eos_token_id", 2 if spm else None)
    ends = _ends(fields, eos)
    try:
        backend, adds_bos = _sentencepiece(fields) if spm else _byte_level(fields)
        _mark_tokens(backend, fields, {bos, *ends})
    except ModelError:
        raise
    except Exception as error:  # what the library raises has no narrower type
        raise ModelError(f"tokenizer.ggml: no tokenizer can be built: {error}") from error
    backend.post_processor = frame(
        bos if fields.flag("add_bos_token", adds_bos) else None,
        eos if fields.flag("add_eos_token", False) else None,
    )
    return GgufVocab(backend, len(fields.tokens), bos, ends)


def frame(bos: int | None, eos: int | None) -> processors.TemplateProcessing:
    """What puts bos before a text and eos behind it, where they are given."""
    marks = [(name, i) for name, i in (("bos", bos), ("eos", eos)) if i is not None]
    special = [{"id": name, "ids": [i], "tokens": [name]} for name, i in marks]
    single = ["bos"] * (bos is not None) + ["$A"] + ["eos"] * (eos is not None)
    second = [part.replace("$A", "$B") + ":1" for part in single]
    return processors.TemplateProcessing(single=single, pair=[*single, *second], special_tokens=special)


class _Fields:
    """The keys under tokenizer.ggml., each checked as it is read. `ids`: token to id; `types`: one for each token."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.tokens: list[str] = [text or f"[EMPTY_{i}]" for i, text in enumerate(self.array("tokens", str))]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(i for i, token in enumerate(self.tokens) if self.ids[token] != i)
            other = self.ids[self.tokens[twice]]
            raise ModelError(f"tokenizer.ggml.tokens: tokens {twice} and {other} are both {self.tokens[twice]!r}")
        types = self.array("token_type", int, optional=True)
        self.types: list[int] = types or [NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise ModelError(f"tokenizer.ggml.token_type: {len(self.types)} entries for {len(self.tokens)} tokens")

    def array(self, key: str, kind: type, *, optional: bool = False) -> list[Any]:
        """A list of values of one type; empty where it is optional and missing."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None and optional:
            return []
        if not isinstance(value, list) or set(map(type, value)) != {kind}:
            found = "is missing" if value is None else "holds something else"
            raise ModelError(f"tokenizer.ggml.{key}: expected an array of {kind.__name__}, which {found}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A true or false."""
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, bool):
            raise ModelError(f"tokenizer.ggml.{key}: {value!r} is neither true nor false")
        return value

    def token(self, key: str, default: int | None) -> int | None:
        """A token id, or None."""
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is not None and (not isinstance(value, int) or not 0 <= value < len(self.tokens)):
            raise ModelError(f"tokenizer.ggml.{key}: {value!r} is not the id of one of the {len(self.tokens)} tokens")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._metadata.get(f"tokenizer.ggml.{key}") or default
        if not isinstance(value, str):
            raise ModelError(f"tokenizer.ggml.{key}: {value!r} is not a string")
        return value


def _ends(fields: _Fields, eos: int | None) -> tuple[int, ...]:
    """The tokens that end a text: eos, then those that end a turn or a message."""
    ends = [eos, fields.token("eot_token_id", None), fields.token("eom_token_id", None)]
    if ends[1] is None:
        turns = [fields.ids[token] for token in END_OF_TURN if token in fields.ids]
        ends += [i for i in turns if fields.types[i] == CONTROL]
    return tuple(dict.fromkeys(i for i in ends if i is not None))


def _byte_level(fields: _Fields) -> tuple[Tokenizer, bool]:
    """Byte-level BPE: words are cut out, their bytes written as letters (GPT-2's alphabet), and merged by rank."""
    split = split_named(fields.text("pre", "default"))
    merges = [tuple(merge.split(" ")) for merge in fields.array("merges", str)]
    if set(map(len, merges)) != {2}:
        wrong = next(i for i, merge in enumerate(merges) if len(merge) != 2)
        raise ModelError(f"tokenizer.ggml.merges: entry {wrong} is not two tokens with a space between")
    backend = Tokenizer(models.BPE(vocab=fields.ids, merges=merges, ignore_merges=split.whole_words))
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, letters])
    backend.decoder = decoders.ByteLevel()
    return backend, split.add_bos


def _sentencepiece(fields: _Fields) -> tuple[Tokenizer, bool]:
    """SentencePiece BPE: spaces become U+2581, the whole text is one word, characters not in the vocabulary are bytes.

    SentencePiece merges the pair whose union has the best score, leftmost first. The library merges by pair, so every
    way to cut a token into two tokens becomes a merge, ranked by the token's score; among the cuts of one token the
    longer left part goes first, as in transformers' conversion.
    """
    scores = fields.array("scores", float)
    if len(scores) != len(fields.tokens) or any(score != score for score in scores):
        raise ModelError(f"tokenizer.ggml.scores: expected {len(fields.tokens)} numbers, one for each token")
    plain = {
        token: score for token, score, type in zip(fields.tokens, scores, fields.types, strict=True) if type == NORMAL
    }
    merges: list[tuple[float, int, str, str]] = []
    for token, score in plain.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                merges.append((-score, -cut, left, right))
    merges.sort(key=lambda merge: merge[:2])
    unknown = fields.token("unknown_token_id", 0)
    model = models.BPE(
        vocab=fields.ids,
        merges=[(left, right) for _, _, left, right in merges],
        unk_token=None if unknown is None else fields.tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    prefix = fields.flag("add_space_prefix", True)
    prepend = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", left=1)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend, True


def _words(fields: _Fields) -> GgufVocab:
    """BERT's words and parts of words. A file writes a word's beginning behind U+2581, and its parts without ##.

    As llama.cpp does, texts are lowered where no key says whether they should be, and framed by cls and sep, which have
    the ids of the usual vocabulary where a file names none.
    """
    cls, sep = (fields.token(key, default) for key, default in (("cls_token_id", None), ("seperator_token_id", 102)))
    cls = fields.token("bos_token_id", 101) if cls is None else cls
    unknown = fields.token("unknown_token_id", 100)
    if cls is None or sep is None or unknown is None:
        raise ModelError("tokenizer.ggml: a vocabulary of words needs cls, sep and unknown tokens")
    marks = {cls, sep, unknown} | {i for i, kind in enumerate(fields.types) if kind in (CONTROL, UNKNOWN)}
    marks |= {i for i, token in enumerate(fields.tokens) if token.startswith("[") and token.endswith("]")}
    written = [
        token if i in marks else token.removeprefix(SPACE) if token.startswith(SPACE) else "##" + token
        for i, token in enumerate(fields.tokens)
    ]
    vocab = {token: i for i, token in enumerate(written)}
    if len(vocab) < len(written):
        raise ModelError("tokenizer.ggml.tokens: two tokens mean the same word")
    backend = Tokenizer(models.WordPiece(vocab, unk_token=written[unknown]))
    lower = fields.flag("normalizer.lowercase", True)
    accents = fields.flag("normalizer.strip_accents", lower)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=accents)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(written[i], special=True, normalized=False) for i in sorted(marks)])
    backend.post_processor = processors.BertProcessing((written[sep], sep), (written[cls], cls))
    return GgufVocab(backend, len(written), None, ())


def _mark_tokens(backend: Tokenizer, fields: _Fields, ends: set[int | None]) -> None:
    """Tokens that are found in the text before it is cut: special ones (control, unknown, bos, eos) and the user's."""
    special, own = [], []
    for i, type in enumerate(fields.types):
        if type in (CONTROL, UNKNOWN) or i in ends:
            special.append(AddedToken(fields.tokens[i], special=True, normalized=False))
        elif type == USER_DEFINED:
            own.append(AddedToken(fields.tokens[i], special=False, normalized=False))
    backend.add_special_tokens(special)
    backend.add_tokens(own)
