"""/v1/models: the shapes."""

from __future__ import annotations

import msgspec


class ModelCard(msgspec.Struct):
    """One name under which the model is served. `max_model_len` (vLLM) is null until the engine is loaded."""

    id: str
    created: int
    root: str
    max_model_len: int | None
    owned_by: str = "octavo"
    object: str = "model"
    parent: str | None = None


class ModelList(msgspec.Struct):
    """All names."""

    data: list[ModelCard]
    object: str = "list"
