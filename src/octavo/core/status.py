"""What the engine says of itself: to the front, to `/ready`, to the block printed at start."""

from __future__ import annotations

import msgspec

from octavo.core.errors import InvalidValue, UserError
from octavo.core.plan import StepStats
from octavo.core.request import PoolingParams, Request


class PoolingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a model gives that pools. tasks: of core/request.py, the usual one first. width: numbers of an embedding.

    labels: of a classifier, one for each score. types: of tokens that the model tells apart, see Request.second.
    normalize: whether embeddings have length 1 unless asked otherwise.
    """

    tasks: list[str]
    width: int
    labels: list[str] = []
    types: int = 0
    normalize: bool = False

    def check(self, params: PoolingParams) -> None:
        """Raise InvalidValue for what this model does not give."""
        if params.task is not None and params.task not in self.tasks:
            raise InvalidValue("task", params.task, f"{', '.join(self.tasks)}: what this model gives")
        if params.dimensions is not None and self.labels:
            raise InvalidValue("dimensions", params.dimensions, "none: this model gives scores of labels")
        if params.normalize is not None and self.labels:
            told = "none: this model gives scores of labels, which use_activation=false leaves raw"
            raise InvalidValue("normalize", params.normalize, told)
        if params.dimensions is not None and params.dimensions > self.width:
            raise InvalidValue("dimensions", params.dimensions, f"at most {self.width}, the model's own")


def check_kind(request: Request, pooling: PoolingInfo | None) -> None:
    """Raise UserError where a request wants what the model does not do. pooling: what it gives, None: it generates."""
    if request.pooling is None:
        if pooling is not None:
            told = f"this model generates no text: it gives {'scores' if pooling.labels else 'embeddings'}"
            raise UserError(told, "model", "wrong_kind_of_model")
    elif pooling is None:
        told = "this model generates text; serve it with runner=pooling for embeddings"
        raise UserError(told, "model", "wrong_kind_of_model")
    else:
        pooling.check(request.pooling)
        if request.second and (pooling.types < 2 or not 0 < request.second <= len(request.prompt)):
            told = "0 of this model" if pooling.types < 2 else f"at most the prompt's tokens, {len(request.prompt)}"
            raise InvalidValue("second", request.second, told)


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a loaded engine, fixed for its life.

    A token takes a place in `groups` pages (core/layout.py), a sequence of max_len tokens at most `sequence_pages`.
    `memory` is the plan in bytes by category: "weights", "kv_cache", "workspace", "slots", "interpreter"; what is
    really taken is in `StepStats`. `load_seconds` runs from the engine's start to its readiness. `pooling`: of
    a model that does not generate. `logits_processors`: names that requests may use.
    """

    model: str
    max_len: int
    vocab: int
    eos_ids: list[int]
    bos_id: int | None = None
    pages: int = 0
    page: int = 32
    groups: int = 1
    sequence_pages: int = 0
    kv_dtype: str = "bfloat16"
    executor: str = "cpu"
    isa: str = ""
    threads: int = 1
    load_seconds: float = 0.0
    memory: dict[str, int] = {}
    pooling: PoolingInfo | None = None
    logits_processors: list[str] = []


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the engine. state: "loading", "ready", "restarting", "draining" or "dead".

    `progress` runs from 0 to 1 while loading; `detail` says in words what happens or why it died. `heartbeat_age` is
    the seconds since the engine last gave a sign of life.
    """

    state: str
    progress: float = 0.0
    detail: str = ""
    info: EngineInfo | None = None
    stats: StepStats = StepStats()
    heartbeat_age: float = 0.0
    restarts: int = 0
