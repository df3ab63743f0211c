"""Checks of single values that a caller gave."""

from __future__ import annotations

import math
from typing import Any

from octavo.core.errors import InvalidValue


def check_number(field: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise InvalidValue for anything but a finite number of [low, high], or of (low, high]."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
        raise InvalidValue(field, value, f"a number {'above' if open_low else 'from'} {low:g} up to {high:g}")


def check_integer(field: str, value: Any, low: int, high: int, note: str = "") -> None:
    """Raise InvalidValue for anything but an integer of [low, high]. note: what the error says behind them."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValue(field, value, f"an integer from {low} to {high}{note}")


def check_token_ids(field: str, ids: Any, least: int, most: int) -> None:
    """Raise InvalidValue for anything but a list of so many token ids of any vocabulary."""
    if not isinstance(ids, list) or not least <= len(ids) <= most:
        raise InvalidValue(field, ids, f"a list of {least} to {most} token ids")
    for token in ids:
        check_integer(field, token, 0, 2**31 - 1, " as token id")
