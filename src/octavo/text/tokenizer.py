"""Text to token ids and back: one face for tokenizer.json and for vocabularies rebuilt from GGUF.

Owns the loaded tokenizer, which nothing changes after loading, so any number of threads may use it; encoding runs
outside the interpreter lock. The invariant: decoding joins the tokens' bytes (spelling.py), so a text is the same
whether it is decoded at once or token by token (detok.py). Does not know prompts, chats or requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import normalizers

from octavo.core.errors import ModelError, UserError
from octavo.text.gguf_vocab import build_vocab, frame
from octavo.text.spelling import read_spelling

if TYPE_CHECKING:
    from octavo.checkpoint.source import Source


class Tokenizer:
    """A vocabulary and the way into it and out of it.

    vocab_size: ids run from 0 to below it (a model's own table may be padded beyond it: such ids have no text). None:
    looked up, which takes a while.
    bos_id: what a text starts with, if anything. eos_ids: what ends one; the first is the tokenizer's own eos.
    special_ids: tokens that are marks, not text. chat_template: the model's Jinja template.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        vocab_size: int | None = None,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        chat_template: str | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        decoder = backend.decoder
        spelling = read_spelling(None if decoder is None else json.loads(decoder.__getstate__()))
        self._backend = backend
        self._spell = spelling.spell
        self._spelled: dict[int, bytes] = {}  # filled as tokens are met
        self.strips_space = spelling.strips_space  # whether a decoded text drops one leading space
        if vocab_size is None:
            vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.vocab_size = vocab_size
        self.bos_id = bos_id
        self.eos_ids = tuple(eos_ids)
        self.chat_template = chat_template
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text. Special tokens written in the text are read as such.

        special: add what the model wants before and behind a text (bos, eos). A rendered chat template already holds
        them: encode it with special=False. Time is linear in the text. Raises UserError for text that is not Unicode.
        """
        return self._encoded(text, special).ids

    @property
    def marks_before(self) -> int:
        """How many tokens `encode` puts before those of a text."""
        marked, bare = (self._encoded("a", special).ids for special in (True, False))
        return next((i for i in range(len(marked)) if marked[i : i + len(bare)] == bare), 0)

    def encode_pair(self, text: str, second: str | None = None, *, limit: int | None = None) -> tuple[list[int], int]:
        """Token ids of a text, or of two that are read together, with their marks; and where the second type begins.

        That is 0 of a model that tells no types of tokens apart. limit: tokens at most, marks included; of what is too
        long the end is left out, of two texts the longer one's first, as transformers does. Raises UserError.
        """
        first = self._encoded(text, False)
        other = None if second is None else self._encoded(second, False)
        if limit is not None:
            room = max(0, limit - self._backend.num_special_tokens_to_add(second is not None))
            if other is None:
                first.truncate(room)
            else:
                for encoding, count in zip((first, other), _shared(len(first.ids), len(other.ids), room), strict=True):
                    encoding.truncate(count)
        whole = self._backend.post_process(first, other, True)
        return whole.ids, whole.type_ids.index(1) if 1 in whole.type_ids else 0

    def encode_pieces(self, text: str, limit: int, *, special: bool = True) -> list[list[int]]:
        """Token ids of a text, cut into pieces of at most `limit` tokens, each with its marks. Raises UserError."""
        whole = self._encoded(text, False)
        whole.truncate(max(1, limit - (self._backend.num_special_tokens_to_add(False) if special else 0)))
        return [self._backend.post_process(piece, None, special).ids for piece in (whole, *whole.overflowing)]

    def _encoded(self, text: str, special: bool) -> tokenizers.Encoding:
        try:
            text.encode()  # of half characters the library's versions make different things
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X} at {error.start}"
            raise UserError(f"the text is not valid Unicode: {half} is half a character") from None
        # the batch call, unlike `encode`, computes no character offsets, which would take a third of the time
        return self._backend.encode_batch_fast([text], add_special_tokens=special)[0]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD. skip_special: leave special tokens out."""
        skip = self.special_ids if skip_special else frozenset()
        data = b"".join([self.token_bytes(i) for i in ids if i not in skip])
        if self.strips_space and data[:1] == b" ":
            data = data[1:]
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes a token adds to a text; of a special token, its name. Ids without a token have none."""
        data = self._spelled.get(id)
        if data is None:
            token = self._backend.id_to_token(id) if 0 <= id < self.vocab_size else None
            if token is None:
                return b""
            data = self._spelled[id] = self._spell(token)
        return data

    def id_of(self, token: str) -> int | None:
        """The id of a token by its own name."""
        id = self._backend.token_to_id(token)
        return None if id is None else int(id)

    def marks(self, texts: Iterable[str]) -> frozenset[int]:
        """The special tokens that spell these texts."""
        ids = (self._backend.token_to_id(text) for text in texts)
        return frozenset(i for i in ids if i is not None) & self.special_ids

    def written(self, mark: str) -> str:
        """A mark as a grammar writes it: a special token by its id, for no text spells it; else as text."""
        ids = self.marks([mark])
        return f"<[{next(iter(ids))}]>" if ids else json.dumps(mark, ensure_ascii=False)

    def token_text(self, id: int) -> str:
        """A token's bytes as text, with U+FFFD where a character is incomplete."""
        return self.token_bytes(id).decode("utf-8", errors="replace")


def _shared(first: int, second: int, room: int) -> tuple[int, int]:
    """How many of `first` and `second` tokens stay where there is room for so many: the longer gives first."""
    if first + second <= room:
        return first, second
    low, high = sorted((first, second))
    high = low if low > room else max(low, room - low)
    if low + high > room:
        low, high = room // 2, room - room // 2
    return (high, low) if first > second else (low, high)


def load_tokenizer(source: Source) -> Tokenizer | None:
    """The tokenizer of a checkpoint; None where it has none. Raises ModelError, of one line.

    A folder: tokenizer.json, with tokenizer_config.json, special_tokens_map.json, generation_config.json and
    chat_template.jinja where they are. A GGUF file: its metadata.
    """
    return _load_gguf(source) if source.kind == "gguf" else _load_folder(source)


def _load_gguf(source: Source) -> Tokenizer | None:
    try:
        vocab = build_vocab(source.metadata)
    except ModelError as error:
        raise ModelError(f"{source.path}: {error}") from error
    if vocab is None:
        return None
    template = source.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{source.path}: tokenizer.chat_template: {template!r} is not a string")
    return Tokenizer(
        vocab.backend, vocab_size=vocab.size, bos_id=vocab.bos_id, eos_ids=vocab.eos_ids, chat_template=template
    )


def _load_folder(source: Source) -> Tokenizer | None:
    path = source.file("tokenizer.json")
    if path is None:
        for name in ("tokenizer.model", "vocab.json"):
            if source.file(name) is not None:
                raise ModelError(f"{source.path}: {name} without tokenizer.json; save the tokenizer as tokenizer.json")
        return None
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises has no narrower type
        raise ModelError(f"{path}: not a readable tokenizer: {error}") from error
    if source.modules is not None and source.modules.lower:
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *filter(None, [backend.normalizer])])
    config = {**_read_json(source, "special_tokens_map.json"), **_read_json(source, "tokenizer_config.json")}
    bos, eos = (_token_id(backend, config.get(name)) for name in ("bos_token", "eos_token"))
    flags = [config.get("add_bos_token"), config.get("add_eos_token")]
    if any(flag is not None for flag in flags):  # what the configuration says overrides tokenizer.json
        backend.post_processor = frame(bos if flags[0] else None, eos if flags[1] else None)
    ends = [eos, *_listed_ends(source)]
    return Tokenizer(
        backend,
        bos_id=bos,
        eos_ids=tuple(dict.fromkeys(i for i in ends if i is not None)),
        chat_template=_chat_template(source, config),
    )


def _read_json(source: Source, name: str) -> dict[str, Any]:
    """The object in a JSON file of the folder; empty where there is no such file."""
    path = source.file(name)
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    """The id of a token as configurations write it: its text, or an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None


def _listed_ends(source: Source) -> list[int]:
    """The ids that end a text by generation_config.json or else config.json: one or a list."""
    for config in (_read_json(source, "generation_config.json"), source.config):
        ends = config.get("eos_token_id")
        if ends is not None:
            listed = ends if isinstance(ends, list) else [ends]
            if not all(isinstance(i, int) for i in listed):
                raise ModelError(f"{source.path}: eos_token_id: {ends!r} is neither a token id nor a list of them")
            return listed
    return []


def _chat_template(source: Source, config: dict[str, Any]) -> str | None:
    """From chat_template.jinja, or tokenizer_config.json: one template, or a list of which "default" is taken."""
    path = source.file("chat_template.jinja")
    if path is not None:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: not readable as UTF-8: {error}") from error
    template = config.get("chat_template") or _read_json(source, "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{source.path}: chat_template is neither a string nor a list of named templates")
    return template
