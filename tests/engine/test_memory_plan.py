"""The memory plan: from headers alone, within the budget, and what the engine then really takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import moe_gguf
import pytest
import tiny_llama

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue, ModelError
from octavo.core.layout import PAGE
from octavo.engine.config import LaunchConfig, parse_bytes
from octavo.engine.launch import build_engine, memory_plan
from octavo.engine.limits import MemoryLimit
from octavo.engine.memory import INTERPRETER_BYTES, fit
from octavo.models.spec import Attn, Conv, Layer, Mlp, ModelSpec, Norm, Rope

MIB = 2**20
ZOO = Path(__file__).parents[1] / "data" / "zoo"
LLAMA_8B = ModelSpec(
    vocab=128256,
    width=4096,
    layers=(Layer(Attn(32, 8, 128, Rope(500000.0)), Mlp(14336), Norm()),) * 32,
    norm=Norm(),
    tied=False,
    max_len=131072,
)
ROOM = MemoryLimit(16 << 30, 12 << 30, "the machine")


def fitted(spec=LLAMA_8B, weights=4_600 * MIB, *, max_len=None, memory=None, limit=ROOM, **scheduler):
    config = SchedulerConfig(**{"max_seqs": 32, **scheduler})
    executor = ExecConfig(threads=4)
    cache = CacheConfig(memory_bytes=memory)
    return fit(spec, weights, max_len=max_len, scheduler=config, cache=cache, executor=executor, limit=limit)


@pytest.mark.parametrize("memory", [None, 6 << 30, 8 << 30, 11 << 30])
def test_a_plan_adds_up_and_stays_within_its_budget(memory):
    plan = fitted(memory=memory)
    assert sum(plan.by_category().values()) == plan.total <= plan.budget
    assert plan.budget == memory or (memory is None and plan.budget < ROOM.available_bytes)
    assert plan.budget - plan.total < plan.page_bytes + 4 * 32 * 131072  # nothing is left lying but a page's rest
    assert plan.page_bytes == PAGE * 32 * 2 * 8 * 128 * 2
    assert plan.kv_cache == plan.pages * plan.page_bytes
    assert plan.max_len == min(131072, plan.pages * PAGE)


def test_more_pages_than_all_sequences_can_fill_are_not_taken():
    plan = fitted(max_len=100, max_seqs=3, max_step_tokens=32)
    assert plan.pages == 3 * 4
    assert plan.total < plan.budget


GEMMA = dataclasses.replace(
    LLAMA_8B,
    layers=tuple(
        dataclasses.replace(layer, mixer=dataclasses.replace(layer.attn, window=0 if index % 4 == 3 else 1024))
        for index, layer in enumerate(LLAMA_8B.layers)
    ),
)
BOUND = -(-(1024 + 256) // PAGE) + 1


def test_a_window_takes_a_bounded_number_of_pages():
    whole = fitted(max_len=65536, memory=40 << 30, max_step_tokens=256)
    mixed = fitted(GEMMA, max_len=65536, memory=40 << 30, max_step_tokens=256)
    assert mixed.windows == (0, 1024, 1024, 1024)
    assert mixed.page_bytes * 4 == whole.page_bytes == whole.kv_cache // whole.pages
    assert whole.sequence_pages == 2048
    assert 2048 < mixed.sequence_pages <= 2048 + 3 * BOUND
    assert 3 * (whole.pages // whole.sequence_pages) < mixed.pages // mixed.sequence_pages
    few = fitted(GEMMA, max_len=65536, memory=40 << 30, max_step_tokens=256, max_seqs=2)
    assert few.pages == 2 * few.sequence_pages


def test_convolutions_take_pages_that_the_plan_counts():
    """LFM2-1.2B's shape: ten convolutions are four groups beside the one of six layers of attention."""
    attends = dataclasses.replace(LLAMA_8B.layers[0], mixer=Attn(32, 8, 64, Rope()))
    convolves = dataclasses.replace(attends, mixer=Conv(3))
    spec = dataclasses.replace(LLAMA_8B, width=2048, layers=(attends,) * 6 + (convolves,) * 10)
    plan = fitted(spec, weights=0, max_len=65536, memory=8 << 30, max_step_tokens=256, max_seqs=1)
    assert plan.windows == (0, 3, 3, 3, 3)
    assert plan.page_bytes == PAGE * 6 * 2 * 8 * 64 * 2
    assert plan.pages == plan.sequence_pages
    assert 2048 + 4 <= plan.sequence_pages <= 2048 + 4 * (1 - (-(3 + 256) // PAGE))


def test_windows_alone_hold_any_length():
    attn = dataclasses.replace(LLAMA_8B.layers[0].attn, window=1024)
    layers = (dataclasses.replace(LLAMA_8B.layers[0], mixer=attn),) * 32
    spec = dataclasses.replace(LLAMA_8B, layers=layers)
    for memory in (6 << 30, 11 << 30):
        plan = fitted(spec, memory=memory, max_step_tokens=256, max_seqs=4)
        assert plan.max_len == 131072
        assert plan.sequence_pages <= BOUND
        assert plan.sequence_pages <= plan.pages <= 4 * plan.sequence_pages
    least = fitted(spec, memory=6 << 30, max_step_tokens=256, max_seqs=1)
    assert least.pages == least.sequence_pages
    with pytest.raises(InvalidValue, match="131072 tokens of cache") as refused:
        fitted(spec, memory=4800 << 20, max_len=131072, max_step_tokens=256)
    needed = parse_bytes(refused.value.accepted.split("at least ")[1].split()[0])
    assert fitted(spec, memory=needed, max_len=131072, max_step_tokens=256).pages >= least.pages


def test_too_little_memory_says_what_is_needed_and_what_would_help():
    with pytest.raises(InvalidValue, match="lower max_model_len") as refused:
        fitted(memory=1 << 30)
    assert refused.value.field == "memory"
    needed = parse_bytes(refused.value.accepted.split("at least ")[1].split()[0])
    assert fitted(memory=needed).pages >= 256 // PAGE
    with pytest.raises(InvalidValue):
        fitted(memory=needed - (1 << 20))
    with pytest.raises(ModelError, match="the control group /x leaves 2048MiB"):
        fitted(limit=MemoryLimit(2 << 30, 2 << 30, "the control group /x"))


def test_a_length_that_was_asked_for_is_never_shortened_in_silence():
    assert fitted(max_len=40000).max_len == 40000
    for length in (131073, 0):
        with pytest.raises(InvalidValue, match="max_len"):
            fitted(max_len=length)
    with pytest.raises(InvalidValue, match="40000 tokens of cache"):
        fitted(max_len=40000, memory=6 << 30)
    with pytest.raises(InvalidValue, match="kv_dtype"):
        fit(
            LLAMA_8B,
            0,
            max_len=None,
            scheduler=SchedulerConfig(),
            cache=CacheConfig(kv_dtype="fp8"),
            executor=ExecConfig(),
            limit=ROOM,
        )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4096", 4096),
        (4096, 4096),
        ("2GiB", 2 << 30),
        ("2 GiB", 2 << 30),
        ("2g", 2 << 30),
        ("2GB", 2 * 10**9),
        ("1.5MiB", 3 << 19),
        ("10kb", 10_000),
        ("7B", 7),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text, wanted):
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "GiB", "-1", "0", "1e9", "2 XiB", "2GiBs", "nan", "1" * 40, "\uff11G"])
def test_sizes_that_are_none(text):
    with pytest.raises(InvalidValue, match="memory"):
        parse_bytes(text)


@pytest.mark.parametrize("executor", ["reference", "cpu"])
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_the_engine_takes_what_the_plan_says(tmp_path, executor, kind):
    shape = {"width": 256, "inner": 512, "layers": 3, "vocab": 1000, "tied": False}
    if kind == "folder":
        path = tiny_llama.write_folder(tmp_path / "model", **shape)
    else:
        path = tiny_llama.write_gguf(tmp_path / "model.gguf", **shape)
    launch = LaunchConfig(
        str(path),
        scheduler=SchedulerConfig(max_seqs=4),
        cache=CacheConfig(memory_bytes=128 * MIB),
        exec=ExecConfig(executor=executor, threads=2),
    )
    plan = memory_plan(launch)
    shares = []
    engine, info = build_engine(launch, lambda share, what: shares.append(share))
    worker = engine._worker
    assert info.memory == plan.by_category()
    program = worker._executor.program if executor == "reference" else None
    if program is not None:
        assert program.weight_bytes == plan.weights
    taken = worker._executor.workspace_bytes()
    assert 0.9 * plan.workspace < taken <= plan.workspace
    slots = sum(array.nbytes for array in vars(worker.slots).values() if hasattr(array, "nbytes"))
    assert slots <= plan.slots <= 1.2 * slots
    assert (info.pages, info.max_len) == (plan.pages, plan.max_len) == (4 * 512 // PAGE, 512)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    engine.close()


@pytest.mark.parametrize("executor", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["lfm2", "lfm2-wide", *moe_gguf.FILES])
def test_layers_of_every_kind_take_what_the_plan_says(name, executor):
    launch = LaunchConfig(
        str(ZOO / name),
        scheduler=SchedulerConfig(max_seqs=4),
        cache=CacheConfig(memory_bytes=128 * MIB),
        exec=ExecConfig(executor=executor, threads=2, dtype="float32"),
    )
    plan = memory_plan(launch)
    engine, info = build_engine(launch)
    taken = engine._worker._executor.workspace_bytes()
    assert info.memory == plan.by_category()
    assert 0.9 * plan.workspace < taken + 4 * 2 * 64 * plan.max_len and taken <= plan.workspace
    engine.close()


def test_the_plan_needs_no_memory_but_for_headers(tmp_path):
    path = tiny_llama.write_folder(tmp_path / "model")
    launch = LaunchConfig(str(path), cache=CacheConfig(memory_bytes=INTERPRETER_BYTES))
    with pytest.raises(InvalidValue, match="memory"):
        memory_plan(launch)
    with pytest.raises(InvalidValue, match="memory"):
        build_engine(launch)
    wide = dataclasses.replace(launch, cache=CacheConfig(memory_bytes=1 << 40))
    assert memory_plan(wide).pages == 64 * 512 // PAGE


def test_an_executor_that_does_not_exist(tmp_path):
    launch = LaunchConfig(
        str(tiny_llama.write_folder(tmp_path / "model")),
        cache=CacheConfig(memory_bytes=160 * MIB),
        exec=ExecConfig(executor="cuda"),
    )
    with pytest.raises(InvalidValue, match="cpu or reference"):
        build_engine(launch)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError):
        memory_plan(LaunchConfig(str(tmp_path)))
