"""How far something is: one line that redraws itself on a terminal, elsewhere a line every few seconds if it moved."""

from __future__ import annotations

import time
from typing import TextIO

from octavo.core.table import binary

WIDTH = 30  # characters of the bar
REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0


class Progress:
    """Draws on `stream`. A label's first report and its completion are always shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._label = self._text = ""
        self._began = self._shown = 0.0
        self._finished = False
        self._open = False  # the cursor stands behind an unfinished bar

    def bytes(self, label: str, done: int, total: int) -> None:
        """`done` of `total` bytes; a total of 0 is unknown."""
        share = done / total if total else 0.0
        self._report(label, share, f"{binary(done)} of {binary(total) if total else '?'}", done)

    def share(self, label: str, done: float) -> None:
        """`done` runs from 0 to 1."""
        self._report(label, done, "", 0)

    def close(self) -> None:
        """Leave the line, so that what follows starts on its own."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def _report(self, label: str, share: float, amount: str, done_bytes: int) -> None:
        now = time.monotonic()
        new = label != self._label
        if new:
            self.close()
            self._label, self._text, self._began, self._finished = label, "", now, False
        due = now - self._shown >= (REDRAW_SECONDS if self._terminal else LINE_SECONDS)
        if self._finished or not (new or due or share >= 1):
            return
        self._finished = share >= 1
        self._shown = now
        speed = f", {binary(done_bytes / (now - self._began))}/s" if done_bytes and now - self._began > 0.5 else ""
        text = f"{min(share, 1):4.0%} {amount}{speed}".rstrip()
        if self._terminal:
            bar = "#" * int(min(share, 1) * WIDTH)
            self._stream.write(f"\r{label} [{bar:.<{WIDTH}}] {text}\x1b[K")
            self._open = True
            if self._finished:
                self.close()
        elif text != self._text:
            self._stream.write(f"{label} {text}\n")
        self._text = text
        self._stream.flush()
