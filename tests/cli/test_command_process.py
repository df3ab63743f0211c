"""The octavo command as a process on tiny models: plan, generate, chat, models, pull, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama

from octavo.checkpoint.source import open_source
from octavo.models.load import footprint, load
from octavo.models.registry import read_spec

SMALL = ("--memory", "256MiB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with a tokenizer and a chat template."""
    return tiny_llama.write_folder(tmp_path_factory.mktemp("model"), tokenizer=True)


def octavo(*args: object, said: str = "", code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with `said` on standard input, and check its exit code."""
    command = [sys.executable, "-m", "octavo", *map(str, args)]
    done = subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=120, env=os.environ | env, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def generate(folder: Path, prompt: str, *args: object) -> dict:
    """The JSON of `octavo generate`."""
    flags = ("--json", "--max-tokens", 12, *SMALL)
    return json.loads(octavo("generate", prompt, "--model", folder, *flags, *args).stdout)


def test_plan_says_what_loading_gives(folder):
    found = json.loads(octavo("plan", folder, "--json", "--max-num-seqs", 4, *SMALL).stdout)
    with open_source(folder) as source:
        spec = read_spec(source)
        assert found["weights"] == footprint(source, spec, "auto")
        assert found["bytes"]["weights"] == sum(weight.nbytes for weight in load(source, spec).values())
    assert found["total_bytes"] == sum(found["bytes"].values()) <= found["budget_bytes"] == 256 * 2**20
    assert found["bytes"]["kv_cache"] == found["pages"] * found["page_bytes"]
    assert found["max_model_len"] == 512 and found["max_num_seqs"] == 4
    assert found["tokens"] == found["pages"] * 32 == found["full_sequences"] * 512
    text = octavo("plan", folder, "--max-num-seqs", 4, *SMALL).stdout
    assert all(str(size) in text for size in [*found["bytes"].values(), *found["weights"].values()])


def test_generate_streams_the_text_that_json_holds(folder):
    whole = generate(folder, "the rain in", "--seed", 5)
    (answer,) = whole["answers"]
    assert len(answer["token_ids"]) == 12 and answer["finish_reason"] == "length"
    flags = ("--max-tokens", 12, "--seed", 5, *SMALL)
    streamed = octavo("generate", "-", "--model", folder, *flags, said="the rain in")
    assert streamed.stdout == answer["text"] + "\n"


def test_generate_gives_n_answers_by_seed(folder):
    both = generate(folder, "a", "--n", 2, "--seed", 7, "--logprobs", 1)["answers"]
    one = generate(folder, "a", "--n", 1, "--seed", 8, "--logprobs", 1)["answers"]
    assert both[1:] == one
    assert [len(entry["top"]) for entry in one[0]["logprobs"]] == [1] * 12


def test_a_model_without_tokenizer_runs_on_token_ids(tmp_path):
    folder = tiny_llama.write_folder(tmp_path / "bare")
    whole = generate(folder, "1, 2 3", "--temperature", 0, "--executor", "reference")
    assert whole["prompt_token_ids"] == [1, 2, 3]
    flags = ("--executor", "reference", "--temperature", 0, "--max-tokens", 12, *SMALL)
    streamed = octavo("generate", "1 2 3", "--model", folder, *flags)
    assert [int(word) for word in streamed.stdout.split()] == whole["answers"][0]["token_ids"]
    assert "token ids such as 1 2 3" in octavo("generate", "one", "--model", folder, *flags, code=2).stderr
    assert "has no chat template" in octavo("chat", folder, "--executor", "reference", *SMALL, code=2).stderr


def test_chat_answers_each_line_with_the_history(folder):
    flags = ("--temperature", 0, "--max-tokens", 8, *SMALL)
    said = "hello\n\nagain\n/reset\nhello\n/help\n/exit\nnever read\n"
    done = octavo("chat", folder, "--system", "be brief", *flags, said=said)
    first, second, third, end = done.stdout.split("\n")
    opening = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    history = f"{opening}{first}<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    for prompt, answer in ((opening, first), (history, second)):
        found = generate(folder, prompt, "--temperature", 0, "--max-tokens", 8)["answers"][0]
        assert found["text"] == answer
    assert third == first and end == ""
    assert done.stderr.count("tokens, ") >= 3 and "tok/s, first after" in done.stderr


def test_chat_says_when_the_conversation_is_full(folder):
    flags = ("--temperature", 0, "--max-tokens", 8, *SMALL)
    done = octavo("chat", folder, *flags, said="x" * 600 + "\n" + "hello\n")
    assert "/reset begins anew" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_damaged_models_are_one_line_and_exit_2(folder, tmp_path):
    whole = tiny_llama.write_gguf(tmp_path / "whole.gguf").read_bytes()
    cut, empty, lying = tmp_path / "cut.gguf", tmp_path / "empty.gguf", tmp_path / "lying.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    lying.write_bytes(whole[:8] + b"\xff" * 8 + whole[16:])
    commands = [("plan", path) for path in (cut, empty, lying, tmp_path, tmp_path / "nothing")]
    commands += [("serve", cut, "--port", 0), ("generate", "x", "--model", cut), ("chat", cut), ("pull", lying)]
    for command in commands:
        done = octavo(*command, code=2)
        assert done.stdout.splitlines() == ([str(lying)] if command[0] == "pull" else [])
        assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"octavo {command[0]}: "), done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--max-num-seqs", "0"), "--max-num-seqs: 0 is not accepted; an integer of 1 or more"),
        (("--max-model-len", "513"), "--max-model-len: 513 is not accepted; from 1 to 512"),
        (("--memory", "1MiB"), "--memory: 1048576 is not accepted; at least"),
        (("--max-num-batched-tokens", "8"), "--max-num-batched-tokens: 8 is not accepted; at least"),
        (("--revision", "main"), "a revision (main) can be chosen of models from a hub only"),
    ],
)
def test_settings_that_cannot_be_met_name_the_flag(folder, args, said):
    done = octavo("plan", folder, *args, code=2)
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_environment_is_checked(folder):
    assert "OCTAVO_LOG: 'loud' is not accepted" in octavo("models", OCTAVO_LOG="loud", code=2).stderr
    assert (
        "OCTAVO_ISA: 'mmx' is not accepted"
        in octavo("generate", "a", "--model", folder, OCTAVO_ISA="mmx", code=2).stderr
    )


def test_models_lists_aliases_and_the_cache_folder(tmp_path):
    for found in (
        octavo("models", "--json", "--cache-dir", tmp_path / "a"),
        octavo("models", "--json", OCTAVO_CACHE=str(tmp_path / "a"), XDG_CACHE_HOME=str(tmp_path / "b")),
    ):
        listed = json.loads(found.stdout)
        assert listed["cache"] == str(tmp_path / "a")
        assert [(row["name"], row["licence"], row["path"]) for row in listed["models"]] == [
            ("smollm2-135m", "Apache-2.0", None),
            ("all-minilm-l6-v2", "Apache-2.0", None),
        ]
    assert "octavo pull smollm2-135m" in octavo("models", XDG_CACHE_HOME=str(tmp_path), OCTAVO_CACHE="").stdout


def test_pull_prints_path_and_licence(folder, tmp_path):
    file = tiny_llama.write_gguf(tmp_path / "tiny.gguf")
    assert octavo("pull", file).stdout.splitlines() == [str(file), "licence: apache-2.0"]
    assert octavo("pull", folder).stdout.splitlines() == [str(folder), "licence: not stated"]


def test_packed_weights_are_kept_unless_told_otherwise(folder, tmp_path):
    """In the cache folder, listed with their size, found again; the answer is the same."""
    kept = tmp_path / "packed"
    here = ("--cache-dir", tmp_path, "--temperature", 0)
    without = generate(folder, "the", *here, "--no-packed-cache")["answers"]
    assert not kept.exists()
    first = generate(folder, "the", *here)["answers"]
    [file] = kept.iterdir()
    stamp = file.stat().st_mtime_ns
    assert first == without == generate(folder, "the", *here, "--packed-cache")["answers"]
    assert [file] == list(kept.iterdir()) and file.stat().st_mtime_ns == stamp
    listed = json.loads(octavo("models", "--json", "--cache-dir", tmp_path).stdout)["packed"]
    assert listed == [{"source": str(folder), "bytes": file.stat().st_size, "path": str(file)}]
    assert f"packed: {folder.name}" in octavo("models", "--cache-dir", tmp_path).stdout
