"""An engine in this process and its model's language, for calls that take turns. What `LLM` (llm.py) asks is its own.

Invariant: between calls the engine is empty. Knows no prompts and no HTTP.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from octavo.checkpoint import hub
from octavo.checkpoint.source import open_source
from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import Unavailable
from octavo.core.plan import Output
from octavo.engine.config import LaunchConfig, parse_bytes
from octavo.engine.launch import build_engine
from octavo.text.tokenizer import load_tokenizer

S = TypeVar("S", bound="Offline")


class Receiver(Protocol):
    """Who takes the outputs of one request."""

    @property
    def finish(self) -> str | None:
        """How it ended."""

    @property
    def stopped(self) -> bool:
        """Whether it wants no more."""

    def push(self, output: Output) -> Any:
        """The next output."""


class Offline:
    """A model, loaded and ready; what it takes is said of `LLM`."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        memory: str | int | None = None,
        dtype: str = "auto",
        quantization: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 512,
        kv_cache_dtype: str = "auto",
        enable_prefix_caching: bool = True,
        threads: int | None = None,
        executor: str = "cpu",
        seed: int | None = None,
        runner: str = "auto",
        revision: str | None = None,
        hf_token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        packed_cache: bool = True,
    ) -> None:
        cache = Path("~/.cache/octavo").expanduser() if cache_dir is None else Path(cache_dir)
        path = hub.resolve(os.fspath(model), cache_dir=cache, revision=revision, token=hf_token)
        launch = LaunchConfig(
            model=str(path),
            name=os.fspath(model),
            max_len=max_model_len,
            packed_dir=str(cache / "packed") if packed_cache else None,
            scheduler=SchedulerConfig(
                max_seqs=max_num_seqs,
                max_step_tokens=max_num_batched_tokens,
                max_queued=2**31 - 1,
                itl_target_ms=0,  # nobody reads along
            ),
            cache=CacheConfig(
                memory_bytes=None if memory is None else parse_bytes(memory),
                kv_dtype="bfloat16" if kv_cache_dtype == "auto" else kv_cache_dtype,
                prefix_cache=enable_prefix_caching,
            ),
            exec=ExecConfig(
                executor=executor, threads=threads, dtype=dtype, quantization=quantization or "none", runner=runner
            ),
        )
        with open_source(path) as source:
            self.tokenizer = load_tokenizer(source)
        self._seed = seed
        self._count = 0
        self._lock = threading.Lock()
        self._engine, self.info = build_engine(launch)
        self._closed = ""  # why, once it is

    def close(self) -> None:
        """Stop the threads and give the memory back. May be called twice; the object is of no use afterwards."""
        self._close("it was closed")

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    def _close(self, reason: str) -> None:
        if not self._closed:
            self._closed = reason
            self._engine.close()

    @contextmanager
    def _turn(self) -> Iterator[dict[str, Receiver]]:
        """This call's turn: a map for who receives what the engine gives, by request. What is left at the end is ended.

        Raises Unavailable.
        """
        with self._lock:
            if self._closed:
                raise Unavailable(f"this LLM cannot be used: {self._closed}")
            live: dict[str, Receiver] = {}
            try:
                yield live
            finally:
                for request_id in live:
                    self._engine.abort(request_id)

    def _finish(self, live: dict[str, Receiver], use_tqdm: bool) -> None:
        """Step until all have ended; those that have are taken out of `live`."""
        began, generated = time.monotonic(), 0
        bar = tqdm(total=len(live), desc="Finished", unit="text", disable=not use_tqdm, dynamic_ncols=True)
        with bar, self._uninterrupted() as interrupted:
            while live:
                for output in self._engine.step():
                    total = live[output.id]
                    generated += len(output.tokens)
                    total.push(output)
                    if total.stopped:
                        self._engine.abort(output.id)
                    if total.finish is not None:
                        del live[output.id]
                        if generated:
                            speed = f"{generated / (time.monotonic() - began):.1f} tok/s"
                            bar.set_postfix_str(speed, refresh=False)
                        bar.update()
                if interrupted.is_set():
                    raise KeyboardInterrupt

    @contextmanager
    def _uninterrupted(self) -> Iterator[threading.Event]:
        """Ctrl-C waits for the end of the step, so that the engine stays whole; a failure closes it."""
        interrupted = threading.Event()
        before = signal.getsignal(signal.SIGINT)
        ours = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
        try:
            yield interrupted
        except Exception as error:
            self._close(f"{type(error).__name__}: {error}")
            raise
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)
