"""The record that every figure is kept with."""

from __future__ import annotations

import json
import subprocess

from octavo.bench import record


def test_a_record_says_where_when_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/octavo", "bench", "serve", "--api-key", "sesame", "--seed", "3"])
    begun = record.begin("serve", {"seed": 3, "api_key": "sesame"})
    path = record.write(record.end(begun, {"answer": 42}), tmp_path / "new" / "folder")
    text = path.read_text()
    found = json.loads(text)
    assert "sesame" not in text and found["command"] == "octavo bench serve --api-key ... --seed 3"
    assert found["benchmark"] == "serve" and found["settings"] == {"seed": 3} and found["results"] == {"answer": 42}
    assert found["machine"]["usable_cores"] >= 1 and found["machine"]["processor"]
    assert found["machine"]["memory_bytes"] > 2**20
    stolen = found["quiet"]["stolen_share"]  # None where no clock tick passed meanwhile
    assert stolen is None or 0 <= stolen <= 1
    assert found["machine"]["processor"] in record.title(found) and found["date"][:10] in record.title(found)


def test_keys_are_hidden_in_both_spellings():
    assert record.command_line(["x", "--api-key=sesame"]) == "octavo --api-key=..."
    assert record.command_line(["x", "a b"]) == "octavo 'a b'"


def test_commit_is_that_of_the_checkout_and_only_of_ours(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(["git", "-C", tmp_path, *named], check=True, capture_output=True, text=True).stdout

    package = tmp_path / "octavo"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("octavo.__file__", str(package / "__init__.py"))
    assert record.commit() is None
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "Begin")
    assert record.commit() is None, "a project that does not hold us"
    git("add", ".")
    git("commit", "-q", "-m", "Hold it")
    head = git("rev-parse", "HEAD").strip()
    assert record.commit() == head
    (package / "__init__.py").write_text("# changed\n")
    assert record.commit() == f"{head}+changes"
