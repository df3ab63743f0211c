"""The rules of CONTRIBUTING.md that a program can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "octavo"
FILES = sorted(SOURCE.rglob("*.py"))
SHAPELESS = {"utils", "util", "manager", "helper", "helpers", "base", "mixin", "common", "misc", "tools"}
MAY_READ_ENVIRONMENT = {SOURCE / "kernels" / "native.py", *(SOURCE / "cli").glob("*.py")}


def test_there_is_something_to_check():
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_keeps_the_rules(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it owns"
    assert len(text.splitlines()) < 400, "what outgrows this wants a new noun"
    assert path.stem not in SHAPELESS
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
        if isinstance(node, ast.Attribute) and path not in MAY_READ_ENVIRONMENT:
            assert not (node.attr in ("environ", "getenv") and isinstance(node.value, ast.Name)), (
                "reads the environment"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_is_public_is_described(path):
    bare = [
        node.name
        for body in [ast.parse(path.read_text()), *_classes(path)]
        for node in body.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not any("overload" in ast.dump(decorator) for decorator in node.decorator_list)
    ]
    assert not bare


def _classes(path: Path) -> list[ast.ClassDef]:
    found = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return [node for node in found if not node.name.startswith("_")]


def test_native_sources_are_short_and_say_what_they_are():
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cc", ".h", ".inl")]
    assert len(sources) > 5
    for path in sources:
        lines = path.read_text().splitlines()
        told = lines[0].startswith("//") or lines[0] == f'#include "{path.stem}.h"'
        assert told, f"{path}: the first line says what the file owns, or its header does"
        assert len(lines) < 400, path
