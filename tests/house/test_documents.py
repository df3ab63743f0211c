"""What the documents tell a reader to type exists, what they link to is there, and nothing is left for later."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octavo.cli import flags

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def code(text: str) -> list[str]:
    """Lines of code blocks and code spans."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line.strip() for block in blocks for line in block.splitlines()] + spans


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_flags_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    names = {name for flag in flags.FLAGS for name in (flag.name, *flag.aliases)} | {"--help", "--version"}
    for line in code(path.read_text()):
        words = line.split()
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in targets or "=" in words[1], line
        if words[:1] == ["octavo"] and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in flags.COMMANDS or words[1] == "COMMAND", line
        if words[:1] == ["octavo"] or line.startswith("--"):
            for word in re.findall(r"--[a-z-]+", line):
                assert word in names or word.replace("--no-", "--") in names, f"{word} in {line!r}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_readme_lists_every_command():
    table = re.findall(r"^\| `octavo (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(flags.COMMANDS)


def test_readme_names_every_package():
    tree = set(re.findall(r"^  (\w+)/ ", (ROOT / "README.md").read_text(), re.MULTILINE))
    filled = {path.parent.name for path in ROOT.glob("src/octavo/*/*.py") if path.name != "__init__.py"}
    assert tree == filled


def test_nothing_is_left_for_later():
    marks = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"]))
    sources = [path for folder in ("src", "csrc", "tests", ".ci") for path in (ROOT / folder).rglob("*")]
    sources += [ROOT / "Makefile", ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    read = [path for path in sources if path.suffix in ("", ".py", ".cc", ".h", ".inl", ".txt") and path.is_file()]
    assert len(read) > 50
    for path in read:
        assert not marks.search(path.read_text()), path


def test_the_tests_that_security_names_exist():
    page = (ROOT / "docs/security.md").read_text().replace("`hostile", "`server/test_hostile_requests.py")
    page = page.replace("`tests/", "`")
    path = ""
    for file, name in re.findall(r"`((?:\w+/)*\w+\.py)?(?:::(\w+))?`", page):
        path = file or path
        if path:
            assert f"def {name}(" in (ROOT / "tests" / path).read_text() or not name, (path, name)
