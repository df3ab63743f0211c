"""The engine in its own process: served, killed, restarted, stopped, and never an orphan."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import tiny_engine
import tiny_llama
import tiny_process
import uvloop

from octavo.core.errors import InvalidValue, QueueFull, Unavailable
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams
from octavo.engine.child import begin
from octavo.engine.client import ProcessClient

ERROR_SECONDS = 1.0  # issue 2: streams in flight end with an error event within a second of the engine's death
LONG = {"max_tokens": 480, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_llama.write_folder(tmp_path_factory.mktemp("model") / "plain"))


def request_of(name: str, prompt: list[int] | None = None, **sampling) -> Request:
    sampling = {"temperature": 0.0, "max_tokens": 8, **sampling}
    return Request(id=name, prompt=prompt or [5, 6, 7], sampling=SamplingParams(**sampling), eos_ids=[2])


async def until(state: str, client: ProcessClient, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while client.status().state != state:
        assert time.monotonic() < deadline, f"not {state} in time: {client.status()}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(model: str, *, stall_seconds: float = 60.0, **fields) -> AsyncIterator[ProcessClient]:
    client = ProcessClient(tiny_process.launch_of(model, **fields), stall_seconds=stall_seconds)
    await client.start()
    try:
        await until("ready", client)
        yield client
    finally:
        await client.stop(0.0)
        assert client.status().state == "dead"
        assert not psutil.Process().children()


async def all_of(client: ProcessClient, request: Request) -> Output:
    total = Output(id=request.id)
    async for output in client.generate(request):
        assert total.finish is None
        total.tokens += output.tokens
        total.finish, total.error = output.finish, output.error
    return total


def test_answers_are_those_of_the_engine(model):
    requests = tiny_engine.mixed_requests(6)
    program = tiny_engine.program_of(Path(model), max_len=512)
    wanted = tiny_engine.gathered(tiny_engine.engine_of(program, "cpu", threads=1), requests)

    async def check() -> None:
        async with running(model) as client:
            info = client.status().info
            assert (info.model, info.max_len, info.vocab, info.eos_ids) == ("tiny", 512, 256, [2])
            assert info.pages == 8 * 512 // 32
            assert info.memory["weights"] > 0
            assert 1 << 20 < client.status().stats.resident_bytes < 128 << 20
            answers = await asyncio.gather(*(all_of(client, request) for request in requests))
            assert [answer.tokens for answer in answers] == [wanted[request.id].tokens for request in requests]
            stats = client.status().stats
            assert (stats.running, stats.waiting, stats.pages_held) == (0, 0, 0)
            assert sum(stats.finished.values()) == 6

    asyncio.run(check())


def test_refusals_leave_the_engine_serving(model):
    async def check() -> None:
        async with running(model, max_queued=0) as client:
            for change, error in (
                (request_of("a", [5, 256]), InvalidValue),
                (request_of("b", [5] * 600), InvalidValue),
                (request_of("c", [2**70]), InvalidValue),
                (request_of("d", [5], stop_token_ids=[256]), InvalidValue),
            ):
                with pytest.raises(error) as refused:
                    await all_of(client, change)
                assert str(refused.value)
            assert refused.value.field == "stop_token_ids"
            streams = [client.generate(request_of(f"s{i}", **LONG)) for i in range(8)]
            for stream in streams:
                await stream.__anext__()
            with pytest.raises(InvalidValue, match="id"):
                await all_of(client, request_of("s1"))
            with pytest.raises(QueueFull, match="at most 0 may wait"):
                await all_of(client, request_of("ninth"))
            for stream in streams:
                await stream.aclose()
            with pytest.raises(InvalidValue, match="id"):  # its end is not confirmed yet
                await all_of(client, request_of("s1"))
            await asyncio.sleep(0.1)
            assert (await all_of(client, request_of("s1"))).finish == "length"

    asyncio.run(check())


def test_leaving_or_aborting_a_stream_frees_its_pages(model):
    async def check() -> None:
        async with running(model) as client:
            stream = client.generate(request_of("left", **LONG))
            await stream.__anext__()
            await stream.aclose()
            task = asyncio.create_task(all_of(client, request_of("cancelled", **LONG)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            aborted = client.generate(request_of("aborted", **LONG))
            await aborted.__anext__()
            await client.abort("aborted")
            assert [output.finish async for output in aborted][-1] == "abort"
            await client.abort("nobody")
            await asyncio.sleep(0.1)
            stats = client.status().stats
            assert (stats.running, stats.pages_held, stats.finished) == (0, 0, {"abort": 3})

    asyncio.run(check())


def test_a_slow_consumer_loses_nothing_and_holds_nobody(model):
    async def check() -> None:
        async with running(model) as client:
            slow = client.generate(request_of("slow", **LONG))
            tokens = (await slow.__anext__()).tokens
            fast = await all_of(client, request_of("fast", **LONG))
            assert fast.finish == "length"
            await asyncio.sleep(0.2)
            async for output in slow:
                tokens += output.tokens
            assert tokens == fast.tokens

    asyncio.run(check())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_killed_engine_ends_its_streams_and_comes_back(model, new_loop):
    async def check() -> None:
        async with running(model) as client:
            streams = [client.generate(request_of(f"s{i}", **LONG)) for i in range(3)]
            for stream in streams:
                await stream.__anext__()
            first = client._child.pid
            os.kill(first, signal.SIGKILL)
            killed = time.monotonic()
            for stream in streams:
                last = [output async for output in stream][-1]
                assert (last.finish, last.error) == ("error", "the engine died")
            assert time.monotonic() - killed < ERROR_SECONDS
            assert client.status().state == "restarting"
            assert client.status().stats.running == 0
            with pytest.raises(Unavailable, match="restarting"):
                await all_of(client, request_of("early"))
            await until("ready", client)
            assert client.status().restarts == 1
            assert client._child.pid != first
            assert (await all_of(client, request_of("s1"))).finish == "length"

    loop = new_loop()
    try:
        loop.run_until_complete(check())
    finally:
        loop.close()


def test_an_engine_that_says_nothing_is_replaced(model):
    async def check() -> None:
        async with running(model, stall_seconds=3.0) as client:
            stream = client.generate(request_of("s", **LONG))
            await stream.__anext__()
            os.kill(client._child.pid, signal.SIGSTOP)
            await asyncio.sleep(0.3)
            assert client.status().state == "ready"
            assert client.status().heartbeat_age > 0.2
            last = [output async for output in stream][-1]
            assert last.finish == "error"
            assert "no sign of life" in last.error
            await until("ready", client)
            assert (await all_of(client, request_of("s"))).finish == "length"

    asyncio.run(check())


def test_ctrl_c_and_terminate_are_the_fronts_to_judge(model):
    async def check() -> None:
        async with running(model) as client:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(client._child.pid, number)
            await asyncio.sleep(0.1)
            assert (await all_of(client, request_of("s"))).finish == "length"
            assert client.status().restarts == 0

    asyncio.run(check())


def test_a_model_that_cannot_be_served_is_final(tmp_path):
    folder = tiny_llama.write_folder(tmp_path / "bad")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])

    async def check(model: Path, word: str) -> None:
        client = ProcessClient(tiny_process.launch_of(str(model)))
        await client.start()
        await until("dead", client)
        assert word in client.status().detail
        assert "\n" not in client.status().detail
        with pytest.raises(Unavailable, match="dead"):
            await all_of(client, request_of("s"))
        await client.stop(1.0)
        assert word in client.status().detail
        assert client.status().restarts == 0

    asyncio.run(check(folder, "model.safetensors"))
    asyncio.run(check(tmp_path / "nothing", "nothing"))


def test_an_engine_that_dies_while_loading_is_given_up_after_some_attempts(model, monkeypatch):
    monkeypatch.setattr("octavo.engine.client.FIRST_BACKOFF_SECONDS", 0.01)
    start = partial(begin, code="import os; os._exit(7)")

    async def check() -> None:
        client = ProcessClient(tiny_process.launch_of(model), start_child=start)
        await client.start()
        await until("dead", client)
        assert "exit code 7" in client.status().detail
        assert client.status().restarts == 4
        await client.stop(0.0)

    asyncio.run(check())


def test_stopping_drains_first_and_aborts_what_is_left(model):
    async def check(grace: float, tokens: int, finish: str) -> None:
        client = ProcessClient(tiny_process.launch_of(model, executor="reference"))
        await client.start()
        await until("ready", client)
        stream = client.generate(request_of("s", max_tokens=tokens, ignore_eos=True))
        await stream.__anext__()
        stopping = asyncio.create_task(client.stop(grace))
        await asyncio.sleep(0)
        assert client.status().state == "draining"
        with pytest.raises(Unavailable, match="draining"):
            await all_of(client, request_of("late"))
        assert [output.finish async for output in stream][-1] == finish
        await stopping
        assert (client.status().state, client.status().detail) == ("dead", "stopped")
        await client.stop(1.0)

    asyncio.run(check(20.0, 30, "length"))
    asyncio.run(check(0.05, 480, "abort"))


def test_stopping_while_loading_and_before_starting(model):
    async def check() -> None:
        client = ProcessClient(tiny_process.launch_of(model))
        await client.start()
        assert client.status().state == "loading"
        with pytest.raises(Unavailable, match="loading"):
            await all_of(client, request_of("early"))
        await asyncio.sleep(0.1)
        await client.stop(0.0)
        assert not psutil.Process().children()
        await ProcessClient(tiny_process.launch_of(model)).stop(0.0)

    asyncio.run(check())


@pytest.mark.parametrize("when", ["loading", "ready"])
def test_a_killed_front_leaves_no_orphan(model, when):
    script = Path(tiny_process.__file__)
    front = subprocess.Popen([sys.executable, str(script), model, when], stdout=subprocess.PIPE, text=True)
    try:
        engine = psutil.Process(int(front.stdout.readline()))
        assert engine.ppid() == front.pid
        time.sleep(0.1)
    finally:
        front.kill()
        front.wait()
        front.stdout.close()
    gone, left = psutil.wait_procs([engine], timeout=30.0)
    assert (len(gone), left) == (1, [])


def test_an_idle_engine_tells_the_memory_it_holds_now(model):
    """Pages are touched after the engine is ready, so what it holds grows, and the status follows without a request."""

    async def check() -> None:
        async with running(model) as client:
            pid = client._child.pid
            held = psutil.Process(pid).memory_info().rss
            deadline = time.monotonic() + 20.0
            while abs(client.status().stats.resident_bytes - held) > held // 4:
                assert time.monotonic() < deadline, client.status()
                await asyncio.sleep(0.05)
                held = psutil.Process(pid).memory_info().rss

    asyncio.run(check())


def test_an_engine_begun_before_the_loop_is_the_one_that_serves(model):
    client = ProcessClient(tiny_process.launch_of(model))
    client.begin()
    [process] = psutil.Process().children()

    async def talk() -> int:
        await client.start()
        try:
            await until("ready", client)
            assert client._child is not None
            outputs = [output async for output in client.generate(request_of("a"))]
            assert outputs[-1].finish == "length"
            return client._child.pid
        finally:
            await client.stop(0.0)

    assert asyncio.run(talk()) == process.pid
    assert not psutil.Process().children()


def test_an_engine_begun_and_never_wanted_ends(model):
    client = ProcessClient(tiny_process.launch_of(model))
    client.begin()
    assert psutil.Process().children()
    asyncio.run(client.stop(0.0))
    assert not psutil.Process().children()
