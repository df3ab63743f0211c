"""Text files to what is calibrated with and judged by: token ids, cut into texts of equal length."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from octavo.compress.quantize import Texts
from octavo.compress.walk import Ids
from octavo.core.errors import InvalidValue, ModelError
from octavo.text.tokenizer import Tokenizer

LENGTH = 512  # tokens of a text; of the second half perplexity is measured
JUDGED = 40  # most texts that perplexity is measured on


def read_texts(
    tokenizer: Tokenizer | None, max_len: int, *, calibration: str | None, tokens: int, perplexity: str | None
) -> Texts:
    """The first `tokens` of one file to calibrate with; the other one, or else what is left of the first, to judge by.

    Raises InvalidValue for a file that cannot be read or is too short.
    """
    if calibration is None and perplexity is None:
        return Texts()
    if tokenizer is None:
        raise ModelError("the model has no tokenizer, and text needs one: leave --calibration and --perplexity out")
    length = min(LENGTH, max_len)
    if tokens < length:
        raise InvalidValue("calibration_tokens", tokens, f"at least {length}, one text")
    used = left = None
    if calibration is not None:
        cut = _cut(tokenizer, "calibration", calibration, length)
        used, left = cut[: tokens // length], cut[tokens // length :][:JUDGED]
    if perplexity is not None:
        left = _cut(tokenizer, "perplexity", perplexity, length)[:JUDGED]
    return Texts(used, left if left is not None and len(left) else None)


def _cut(tokenizer: Tokenizer, field: str, name: str, length: int) -> Ids:
    """All whole texts of a file."""
    try:
        ids = tokenizer.encode(Path(name).read_text("utf-8"), special=False)
    except OSError as error:
        raise InvalidValue(field, name, f"a text file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidValue(field, name, "a text file in UTF-8") from None
    if len(ids) < length:
        raise InvalidValue(field, name, f"a text of at least {length} tokens; this one has {len(ids)}")
    return np.array(ids[: len(ids) // length * length], np.int32).reshape(-1, length)
