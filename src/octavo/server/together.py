"""Running coroutines at once. Invariant: when `together` is left in any way, none of them runs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def together(choices: list[Coroutine[Any, Any, T]]) -> list[T]:
    """What they return, in their order; the first error ends all."""
    tasks = [asyncio.ensure_future(choice) for choice in choices]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
