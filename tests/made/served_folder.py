"""A server of a real engine process with a tiny model, ready to be asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from served import Served, served, until

from octavo.checkpoint.source import open_source
from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.engine.client import ProcessClient
from octavo.engine.config import LaunchConfig
from octavo.text.tokenizer import load_tokenizer


@contextlib.contextmanager
def served_folder(
    folder: Path,
    load: Callable[[], Any] | None = None,
    *,
    scheduler: SchedulerConfig | None = None,
    runner: str = "auto",
    **config: Any,
) -> Iterator[Served]:
    """Serve a folder inside. load: the tokenizer, if not the folder's own. config: fields of ServerConfig."""

    def own() -> Any:
        with open_source(folder) as source:
            return load_tokenizer(source)

    launch = LaunchConfig(
        model=str(folder),
        name="tiny",
        scheduler=scheduler or SchedulerConfig(max_seqs=4, max_step_tokens=16, max_queued=8),
        cache=CacheConfig(memory_bytes=2**29),
        exec=ExecConfig(threads=1, runner=runner),
    )
    with served(ProcessClient(launch), load or own, **config) as made:
        until(lambda: made.ask("GET", "/ready").status == 200, 60)
        yield made
