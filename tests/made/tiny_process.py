"""A front process for tests, run as a script: starts an engine process, prints its id, and stays.

Arguments: the model, and when to print: "loading" (the process exists) or "ready" (from then on it generates).
"""

from __future__ import annotations

import asyncio
import sys

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.request import Request, SamplingParams
from octavo.engine.client import ProcessClient
from octavo.engine.config import LaunchConfig


def launch_of(model: str, **fields) -> LaunchConfig:
    """Small and quick to start."""
    return LaunchConfig(
        model=model,
        name="tiny",
        scheduler=SchedulerConfig(max_seqs=8, max_step_tokens=64, max_queued=fields.pop("max_queued", 16)),
        cache=CacheConfig(memory_bytes=128 << 20),
        exec=ExecConfig(executor=fields.pop("executor", "cpu"), threads=1),
        **fields,
    )


async def front(model: str, until: str) -> None:
    client = ProcessClient(launch_of(model))
    await client.start()
    while client._child is None or (until != "loading" and client.status().state != "ready"):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    print(client._child.pid, flush=True)
    if until == "loading":
        await asyncio.sleep(60)
    number = 0
    while True:
        number += 1
        sampling = SamplingParams(max_tokens=400, ignore_eos=True)
        async for _ in client.generate(Request(id=str(number), prompt=[5, 6, 7], sampling=sampling)):
            pass


if __name__ == "__main__":
    asyncio.run(front(sys.argv[1], sys.argv[2]))
