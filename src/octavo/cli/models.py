"""`octavo models`: the aliases, and what lies in the cache folder, packed weights included."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from octavo.checkpoint import hub
from octavo.checkpoint.aliases import ALIASES
from octavo.checkpoint.container import kept_in
from octavo.cli import resolve
from octavo.core.table import binary, columns


def run(args: argparse.Namespace) -> int:
    """Print both as one table: a model that is not fetched has no path."""
    folder = resolve.cache_dir(args)
    kept = hub.list_models(folder)
    missing = {name: model for name, model in ALIASES.items() if name not in {model.name for model in kept}}
    rows = [
        {"name": model.name, "bytes": model.nbytes, "licence": model.licence, "path": str(model.path)} for model in kept
    ]
    rows += [
        {"name": name, "bytes": model.nbytes, "licence": model.licence, "path": None} for name, model in missing.items()
    ]
    packed = [
        {"source": str(file.head.get("source")), "bytes": file.nbytes, "path": str(file.path)}
        for file in kept_in(resolve.packed_dir(folder))
    ]
    if args.json:
        print(json.dumps({"cache": str(folder), "models": rows, "packed": packed}, indent=2))
        return 0
    table = [("NAME", "SIZE", "LICENCE", "PATH")]
    for row in rows:
        path = str(row["path"] or f"not fetched: octavo pull {row['name']}")
        table.append((str(row["name"]), binary(int(str(row["bytes"]))), str(row["licence"] or "not stated"), path))
    for file in packed:
        table.append(
            (f"packed: {Path(str(file['source'])).name}", binary(int(str(file["bytes"]))), "", str(file["path"]))
        )
    print(columns(table, right=(1,)))
    return 0
