"""What a benchmark shows while it runs, and what it leaves behind: result.json, requests.jsonl, result.png.

Invariant: nothing is written without --out, and nothing is measured where the picture could not be drawn. Knows no
figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from octavo.bench import picture, record


def bar(name: str, total: int) -> tqdm[Any]:
    """A progress bar on standard error, silent where that is no terminal."""
    return tqdm(total=total, desc=name, unit="request", disable=None, leave=False, mininterval=0.2)


class Keep:
    """Writes what --out asks for. Raises UserError at once where a picture is wanted and cannot be drawn."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._folder = Path(args.record["out"]) if args.record["out"] else None
        self._picture = args.record["picture"] and self._folder is not None
        if self._picture:
            picture.require()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "requests.jsonl").unlink(missing_ok=True)

    def requests(self, rows: Iterable[dict[str, Any]], about: dict[str, Any]) -> None:
        """Each request of a run, behind those of the runs before."""
        if self._folder is not None:
            with (self._folder / "requests.jsonl").open("ab") as file:
                for row in rows:
                    file.write(msgspec.json.encode(about | row) + b"\n")

    def result(self, found: dict[str, Any], draw: Callable[[dict[str, Any], Path], None]) -> None:
        """The record and its picture."""
        if self._folder is not None:
            record.write(found, self._folder)
        if self._folder is not None and self._picture:
            draw(found, self._folder / "result.png")
