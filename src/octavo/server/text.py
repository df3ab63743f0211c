"""The model's language in the front: tokenizer and chat template, loaded behind the server's back, and text work.

Owns a small pool of threads. Invariant: texts longer than INLINE characters are worked on in the pool, so a large
prompt never holds the event loop. Does not know of HTTP, of requests or of the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from octavo.core.errors import ModelError, OctavoError, Unavailable, UserError
from octavo.text.breakers import Breakers
from octavo.text.template import ChatTemplate
from octavo.text.tokenizer import Tokenizer

INLINE = 2048  # characters that are worked on in the event loop: well under a millisecond
THREADS = 2

T = TypeVar("T")
logger = logging.getLogger("octavo.server")


class Language:
    """What turns text into token ids and back. `state` is "loading", "ready", "failed" (`detail` says why) or "closed".

    `tokenizer` is None for a model that has none: it runs on token ids.
    """

    def __init__(self, load: Callable[[], Tokenizer | None]) -> None:
        self._load = load
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="text")
        self.state = "loading"
        self.detail = ""
        self.tokenizer: Tokenizer | None = None
        self.template: ChatTemplate | None = None
        self.breakers: Breakers | None = None

    async def start(self) -> None:
        """Load; what fails is kept for `check` and raised as ModelError."""
        try:
            self.tokenizer, self.template = await self.work(1, self._loaded, inline=0)
        except Exception as error:
            self.state, self.detail = "failed", str(error) if isinstance(error, OctavoError) else "see the log"
            if isinstance(error, OctavoError):
                raise
            logger.exception("the tokenizer cannot be loaded")
            raise ModelError(f"the tokenizer cannot be loaded: {error}") from error
        self.breakers = None if self.tokenizer is None else Breakers(self.tokenizer)
        self.state = "ready"

    def _loaded(self) -> tuple[Tokenizer | None, ChatTemplate | None]:
        tokenizer = self._load()
        if tokenizer is None or tokenizer.chat_template is None:
            return tokenizer, None
        return tokenizer, ChatTemplate.of(tokenizer, tokenizer.chat_template)

    def close(self) -> None:
        """Let the threads go; work under way ends by itself."""
        self.state = "closed"
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def work(self, size: int, task: Callable[[], T], *, inline: int = INLINE) -> T:
        """The result of `task`, which handles `size` characters: here if that is at most `inline`, else in the pool."""
        if size <= inline:
            return task()
        if self.state == "closed":
            raise Unavailable("the server is shutting down")
        return await asyncio.get_running_loop().run_in_executor(self._pool, task)

    def check(self) -> None:
        """Raises Unavailable while there is nothing to work with."""
        if self.state != "ready":
            raise Unavailable(f"the tokenizer is {self.state}" + (f": {self.detail}" if self.detail else ""))

    def required(self, field: str) -> Tokenizer:
        """The tokenizer; raises UserError, naming the field that is text, where the model has none."""
        self.check()
        if self.tokenizer is None:
            raise UserError(f"{field}: this model has no tokenizer; send a prompt of token ids", field, "no_tokenizer")
        return self.tokenizer
