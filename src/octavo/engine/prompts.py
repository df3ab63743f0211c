"""What callers of `LLM` may give for prompts and for their parameters, made plain."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from octavo.core.errors import InvalidValue

Prompt = str | Sequence[int] | Mapping[str, Any]
P = TypeVar("P")


def several(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts, where one alone may have been given."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise InvalidValue("prompts", prompts, "text, a list of token ids, or a list of those")
    several: list[Any] = list(prompts)
    if several and all(hasattr(item, "__index__") for item in several):
        return [several]
    return several


def written(field: str, prompt: Prompt) -> str | list[int]:
    """A prompt's text or token ids. Raises InvalidValue."""
    if isinstance(prompt, Mapping):
        if "prompt_token_ids" in prompt:
            prompt = prompt["prompt_token_ids"]
        elif "prompt" in prompt:
            prompt = prompt["prompt"]
        else:
            raise InvalidValue(field, dict(prompt), "a dict with prompt or prompt_token_ids")
    if isinstance(prompt, str):
        return prompt
    tokens: Iterable[Any] = prompt
    try:
        return [operator.index(token) for token in tokens]
    except TypeError:
        raise InvalidValue(field, prompt, "text, or a list of token ids") from None


def for_each(field: str, given: P | Sequence[P] | None, count: int, kind: type[P]) -> list[P]:
    """Parameters for each prompt, where one for all or none may have been given. Raises InvalidValue."""
    if given is None or isinstance(given, kind):
        return [kind() if given is None else given] * count
    if not isinstance(given, Sequence) or not all(isinstance(each, kind) for each in given):
        raise InvalidValue(field, given, f"{kind.__name__}, or a list of them")
    params = list(given)
    if len(params) != count:
        raise InvalidValue(field, f"{len(params)} of them", f"one, or as many as prompts, which are {count}")
    return params
