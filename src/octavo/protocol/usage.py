"""Token counts, as every generation endpoint reports them."""

from __future__ import annotations

import msgspec


class PromptDetails(msgspec.Struct):
    """`cached_tokens`: prompt tokens whose keys and values were found in the prefix cache."""

    cached_tokens: int = 0


class CompletionDetails(msgspec.Struct):
    """`reasoning_tokens`: those generated up to the end mark of the reasoning, which counts too; 0 where none is."""

    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    """Counts over all prompts and choices; a prompt with several choices counts once. The last is a chat's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int) -> Usage:
        """Usage from its three counts."""
        return cls(prompt, completion, prompt + completion, PromptDetails(cached))
