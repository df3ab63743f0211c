"""Texts of which a model gives vectors: their token ids before, and what becomes of the vectors of pieces behind.

Serves `LLM` and the server's front, which has no numpy: a vector is an array of float32 here. Knows no engine.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from octavo.core.errors import InvalidValue, UserError
from octavo.core.request import PoolingParams, check_ids
from octavo.core.status import EngineInfo
from octavo.text.tokenizer import Tokenizer

MAX_PIECES = 1024  # of one text
PIECE = PoolingParams(task="embed", use_activation=False)  # how a piece of a text is asked


class Pooled(NamedTuple):
    """Token ids of one request; of a pair, for a model that tells them apart, where the second text begins."""

    ids: list[int]
    second: int = 0


def tokens_of(
    field: str,
    text: str | list[int],
    tokenizer: Tokenizer | None,
    info: EngineInfo,
    params: PoolingParams,
    *,
    second: str | None = None,
    special: bool = True,
) -> Pooled:
    """A text, or two that are read together. special: with the marks that the model wants. Raises UserError."""
    limit = _limit(params, info.max_len)
    if isinstance(text, list):
        return _checked(field, text, Pooled(text[:limit]), info)
    tokenizer = _required(field, tokenizer)
    if not special and second is None:
        return _checked(field, text, Pooled(tokenizer.encode(text, special=False)[:limit]), info)
    ids, begin = tokenizer.encode_pair(text, second, limit=limit)
    if limit is not None and len(ids) > limit:
        raise InvalidValue("truncate_prompt_tokens", limit, f"at least {len(ids)}: the model's marks alone are as many")
    told_apart = info.pooling is not None and info.pooling.types > 1
    return _checked(field, text, Pooled(ids, begin if told_apart else 0), info, paired=second is not None)


def pieces_of(
    field: str, text: str | list[int], tokenizer: Tokenizer | None, info: EngineInfo, *, special: bool = True
) -> list[Pooled]:
    """A text cut into pieces that the model takes; of token ids as they are. special: each with its marks. Raises
    UserError."""
    longest = info.max_len
    if isinstance(text, list):
        pieces = [text[at : at + longest] for at in range(0, len(text), longest)]
    else:
        pieces = _required(field, tokenizer).encode_pieces(text, longest, special=special)
    if len(pieces) > MAX_PIECES:
        raise InvalidValue(field, f"a text of {len(pieces)} pieces", f"one of at most {MAX_PIECES} of {longest} tokens")
    return [_checked(field, text, Pooled(piece), info) for piece in pieces]


def joined(
    pieces: Sequence[Pooled], vectors: Sequence[array[float]], params: PoolingParams, info: EngineInfo
) -> array[float]:
    """A text's embedding, as `params` want it, from those of its pieces, asked as PIECE: their mean, each as often as
    it has tokens."""
    counts = [len(piece.ids) for piece in pieces]
    total = sum(counts)
    columns = list(zip(*vectors, strict=True))[: params.dimensions]
    vector = array("f", (sum(map(operator.mul, column, counts)) / total for column in columns))
    usual = info.pooling is not None and info.pooling.normalize
    if not (usual if params.activate is None else params.activate):
        return vector
    length = max(math.sqrt(math.fsum(number * number for number in vector)), 1e-12)
    return array("f", (number / length for number in vector))


def cosine(first: array[float], second: array[float]) -> float:
    """How alike two embeddings are, from -1 to 1."""
    lengths = math.sqrt(_product(first, first) * _product(second, second))
    return _product(first, second) / max(lengths, 1e-12)


def _product(first: array[float], second: array[float]) -> float:
    return math.fsum(map(operator.mul, first, second))


def _required(field: str, tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise UserError(f"{field}: this model has no tokenizer; give token ids", field, "no_tokenizer")
    return tokenizer


def _limit(params: PoolingParams, longest: int) -> int | None:
    """Tokens of a text at most, None: it is not cut."""
    limit = params.truncate_prompt_tokens
    if limit is not None and limit > longest:
        raise InvalidValue("truncate_prompt_tokens", limit, f"at most {longest}, which the model takes, or -1 for it")
    return longest if limit == -1 else limit


def _checked(field: str, text: str | list[int], made: Pooled, info: EngineInfo, *, paired: bool = False) -> Pooled:
    """What was made of a text, or of a pair, if the model takes it."""
    count = len(made.ids)
    if not count:
        raise InvalidValue(field, text, "a text of at least one token")
    if count > info.max_len:
        of = " of both texts" if paired else ""
        told = f"{field}: {count} tokens{of} do not fit; the model takes {info.max_len}."
        raise UserError(f"{told} truncate_prompt_tokens=-1 cuts texts", field, "context_length_exceeded")
    check_ids(field, made.ids, info.vocab)
    return made
