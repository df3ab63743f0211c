"""One model in this process, for one person: engine and tokenizer, and answers as they come.

Invariant: answers that are left, by an error or by the reader, leave nothing in the engine. Knows no HTTP and no flags.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from octavo.checkpoint.source import open_source
from octavo.cli.progress import Progress
from octavo.core.errors import EngineFault
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams, choice_seed
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import build_engine
from octavo.text.assemble import Assembler, Delta
from octavo.text.tokenizer import load_tokenizer


class Session:
    """A loaded model. `tokenizer` is None for a model that has none: it runs on token ids."""

    def __init__(self, launch: LaunchConfig, progress: Progress) -> None:
        with open_source(Path(launch.model)) as source:
            self.tokenizer = load_tokenizer(source)
        try:
            self._engine, self.info = build_engine(launch, lambda share, what: progress.share("loading", share))
        finally:
            progress.close()

    def answer(self, prompt: list[int], sampling: SamplingParams) -> Answers:
        """`sampling.n` answers to one prompt, to be iterated over once. Raises InvalidValue when iterated."""
        eos = sorted({*self.info.eos_ids, *(self.tokenizer.eos_ids if self.tokenizer else ())})
        seed = secrets.randbits(62) if sampling.fixed_seed is None else sampling.fixed_seed
        requests = [
            Request(
                id=secrets.token_hex(8),
                prompt=prompt,
                sampling=msgspec.structs.replace(sampling, n=1),
                eos_ids=eos,
                seed=choice_seed(seed, choice),
            )
            for choice in range(sampling.n)
        ]
        return Answers(self._engine, requests, [Assembler(self.tokenizer, sampling, prompt) for _ in requests])

    def close(self) -> None:
        """Release threads and memory."""
        self._engine.close()


class Answers:
    """What one call of `Session.answer` gives. `totals` grow while it is iterated over."""

    def __init__(self, engine: Engine, requests: list[Request], totals: list[Assembler]) -> None:
        self._engine = engine
        self._requests = requests
        self.totals = totals
        self.began = self.first = self.ended = time.monotonic()  # when asked, at the first token, at the last

    def __iter__(self) -> Iterator[tuple[int, Delta]]:
        """Number of the answer and what it gained. Raises EngineFault where the engine fails it."""
        live: dict[str, int] = {}
        self.began = time.monotonic()
        try:
            for index, request in enumerate(self._requests):
                self._engine.add(request)
                live[request.id] = index
            while live:
                for output in self._engine.step():
                    if output.id in live:
                        yield self._push(live, output)
        finally:
            for request_id in live:
                self._engine.abort(request_id)

    def _push(self, live: dict[str, int], output: Output) -> tuple[int, Delta]:
        """Take one output; what has ended leaves `live`."""
        index = live[output.id]
        total = self.totals[index]
        self.ended = time.monotonic()
        if not any(one.tokens for one in self.totals):
            self.first = self.ended
        delta = total.push(output)
        if delta.finish is not None:
            del live[output.id]
            if total.stopped:
                self._engine.abort(output.id)
        if delta.finish == "error":
            raise EngineFault(delta.error or "the engine failed")
        return index, delta

    @property
    def tokens(self) -> int:
        """Tokens generated so far, over all answers."""
        return sum(len(total.tokens) for total in self.totals)

    @property
    def pace(self) -> str:
        """What a reader wants to know of the speed."""
        after, since = self.tokens - len(self.totals), self.ended - self.first
        rate = f"{after / since:.1f} tok/s, " if after > 0 and since > 0 else ""
        return f"{self.tokens} tokens, {rate}first after {self.first - self.began:.2f} s"
