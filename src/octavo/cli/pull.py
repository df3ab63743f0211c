"""`octavo pull`: fetch a model, say where it lies and under which licence."""

from __future__ import annotations

import argparse

from octavo.checkpoint.source import open_source
from octavo.cli import resolve


def run(args: argparse.Namespace) -> int:
    """Fetch, and print the path on a line of its own."""
    found = resolve.path(args)
    print(found)
    with open_source(found) as source:
        print(f"licence: {resolve.licence(args, source) or 'not stated'}")
    return 0
