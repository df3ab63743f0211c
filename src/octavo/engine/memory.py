"""What serving a model takes, in bytes by category, from headers and settings alone; what fits is decided here.

Invariant: the categories add up to at most the budget, and the engine allocates what the plan says. The reading of
weights passes through a few more bytes for a moment, before the pages are taken. Opens no file and takes no memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue, ModelError
from octavo.core.groups import CacheGroups
from octavo.core.layout import KV_BYTES, KvLayout, pages_for
from octavo.engine.limits import MemoryLimit, cores
from octavo.kernels.workspace import LatentSize, MixtureSize, workspace_bytes
from octavo.models.groups import kv_layout
from octavo.models.parts import parts
from octavo.models.spec import Conv, ModelSpec, Moe, places
from octavo.program.cpu import config
from octavo.worker.grammars import Grammars
from octavo.worker.guides import Guides
from octavo.worker.slots import Slots

MIB = 2**20
INTERPRETER_BYTES = 64 * MIB  # Python, numpy, this package and the native library, once all is loaded
LEAST_LEN = 256  # tokens that must fit for a start to make sense, unless the model or the settings allow fewer
MARGIN_BYTES = 256 * MIB  # left to the front process and the rest of the machine, with a tenth of what is available


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by category, and what they buy: `pages` of `page_bytes`, sequences of up to `max_len` tokens.

    windows: of each cache group, see KvLayout. sequence_pages: what a sequence of max_len tokens holds at most.
    """

    weights: int
    kv_cache: int
    workspace: int
    slots: int
    grammars: int
    interpreter: int
    budget: int
    pages: int
    page_bytes: int
    max_len: int
    windows: tuple[int, ...]
    sequence_pages: int

    @property
    def total(self) -> int:
        """All categories together."""
        return self.weights + self.kv_cache + self.workspace + self.slots + self.grammars + self.interpreter

    def by_category(self) -> dict[str, int]:
        """The categories of `EngineInfo.memory`."""
        names = ("weights", "kv_cache", "workspace", "slots", "grammars", "interpreter")
        return {name: getattr(self, name) for name in names}


def budget(cache: CacheConfig, limit: MemoryLimit) -> int:
    """Bytes the engine process may take: as set, or what is left here less a margin."""
    if cache.memory_bytes is not None:
        return cache.memory_bytes
    return max(limit.available_bytes - limit.available_bytes // 10 - MARGIN_BYTES, 0)


def fit(
    spec: ModelSpec,
    weights: int,
    *,
    max_len: int | None,
    scheduler: SchedulerConfig,
    cache: CacheConfig,
    executor: ExecConfig,
    limit: MemoryLimit,
) -> MemoryPlan:
    """Share the budget: what must be, then pages with the rest, at most as many as all sequences can fill.

    `weights`: packed bytes. `max_len` None: as long as the model and the pages allow. Raises InvalidValue where a
    setting cannot be met, and ModelError where the memory at hand does not suffice.
    """
    wanted = spec.max_len if max_len is None else max_len
    if not 1 <= wanted <= spec.max_len:
        raise InvalidValue("max_len", wanted, f"from 1 to {spec.max_len}, which the model was made for")
    if not spec.causal:
        wanted = _whole(wanted, max_len, scheduler)
    if cache.kv_dtype not in KV_BYTES:
        raise InvalidValue("kv_dtype", cache.kv_dtype, " or ".join(KV_BYTES))
    kv = kv_layout(spec, cache.kv_dtype)
    groups, page_bytes = CacheGroups(kv.windows, scheduler.max_step_tokens), kv.page_bytes
    workspace = _workspace(spec, kv, wanted, scheduler, executor)
    slots = Slots.size_bytes(scheduler.max_seqs, wanted, kv.groups)
    grammars = _grammars(spec, scheduler.max_seqs)
    fixed = weights + workspace + slots + grammars + INTERPRETER_BYTES
    allowed = budget(cache, limit)
    most = scheduler.max_seqs * groups.pages(wanted)
    if not spec.causal:  # all sequences of a step end with it
        most = min(most, (pages_for(scheduler.max_step_tokens) + scheduler.max_seqs) * kv.groups)
    pages = min((allowed - fixed) // page_bytes, most)
    least = min(wanted, LEAST_LEN) if max_len is None else wanted
    if pages < groups.pages(least):
        raise _too_small(cache, limit, allowed, fixed, weights, least, groups.pages(least) * page_bytes)
    longest = groups.longest(pages, wanted)
    return MemoryPlan(
        weights=weights,
        kv_cache=pages * page_bytes,
        workspace=workspace,
        slots=slots,
        grammars=grammars,
        interpreter=INTERPRETER_BYTES,
        budget=allowed,
        pages=pages,
        page_bytes=page_bytes,
        max_len=longest,
        windows=kv.windows,
        sequence_pages=groups.pages(longest),
    )


def _grammars(spec: ModelSpec, seqs: int) -> int:
    """What is taken when the first request has a grammar, or lists its tokens; nothing where nothing is drawn."""
    return Grammars.size_bytes(seqs, spec.vocab) + Guides.size_bytes(seqs, spec.vocab) if spec.head else 0


def _whole(wanted: int, asked: int | None, scheduler: SchedulerConfig) -> int:
    """The longest text of an encoder, whose tokens see each other, so that one step computes them all."""
    if asked is not None and asked > scheduler.max_step_tokens:
        accepted = f"at least max_len, which is {asked}: an encoder computes a text in one step"
        raise InvalidValue("max_step_tokens", scheduler.max_step_tokens, accepted)
    return min(wanted, scheduler.max_step_tokens)


def _workspace(spec: ModelSpec, kv: KvLayout, max_len: int, scheduler: SchedulerConfig, executor: ExecConfig) -> int:
    """What an executor takes beside weights and pages, the rotation tables included."""
    attn = spec.attns[0]
    inner = [layer.dense.inner if layer.dense else 0 for layer in spec.layers]
    mixtures = [layer.ffn for layer in spec.layers if isinstance(layer.ffn, Moe)]
    ropes = {each.rope for each in spec.attns} - {None}
    rotations = 4 * len(ropes) * max_len * places(attn.turned)
    if executor.executor == "reference":  # all weights again, in float32
        return rotations + 4 * sum(math.prod(part.shape) for part in parts(spec) if not part.is_vector)
    shape = config(
        kv,
        width=spec.width,
        heads=attn.heads,
        vocab=spec.vocab if spec.head else 0,
        max_len=max_len,
        max_tokens=scheduler.max_step_tokens,
        threads=executor.threads or cores(),
    )
    norms, latent = [each.head_norm for each in spec.attns], attn.latent
    return rotations + workspace_bytes(
        shape,
        max(inner),
        sights=[(each.window, each.causal) for each in spec.attns],
        post_norms=any(layer.post is not None for layer in spec.layers),
        whole_key_norms=any(norm is not None and norm.shares == "whole" for norm in norms),
        mixture=MixtureSize(
            max(moe.experts for moe in mixtures), max(moe.top for moe in mixtures), max(moe.inner for moe in mixtures)
        )
        if mixtures
        else None,
        latent=LatentSize(latent.rank, latent.plain, latent.value, latent.narrow) if latent else None,
        convolutions=any(isinstance(layer.mixer, Conv) for layer in spec.layers),
    )


def _too_small(
    cache: CacheConfig, limit: MemoryLimit, allowed: int, fixed: int, weights: int, least: int, least_bytes: int
) -> InvalidValue | ModelError:
    """The error that says how much is needed and what could be lowered."""
    needed = fixed + least_bytes
    parts = (
        f"{_mib(weights)} for weights, {_mib(least_bytes)} for {least} tokens of cache, {_mib(fixed - weights)} besides"
    )
    advice = "lower max_model_len, max_num_seqs or max_num_batched_tokens, or take a smaller model"
    if cache.memory_bytes is not None:
        return InvalidValue("memory", cache.memory_bytes, f"at least {_mib(needed)} is needed ({parts}); or {advice}")
    return ModelError(
        f"the model needs at least {_mib(needed)} ({parts}), and {limit.source} leaves {_mib(limit.available_bytes)}, "
        f"of which {_mib(allowed)} may be taken; free some memory, {advice}"
    )


def _mib(size: int) -> str:
    """Bytes as --memory takes them, rounded up, so that what an error names suffices."""
    return f"{-(-size // MIB)}MiB"
