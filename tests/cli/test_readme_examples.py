"""The examples of the README, run as they stand but for the model, its memory and the port."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import tiny_llama

README = (Path(__file__).parents[2] / "README.md").read_text()
URL = "http://127.0.0.1:8000"
NAME = "smollm2-135m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with a tokenizer and a chat template."""
    return tiny_llama.write_folder(tmp_path_factory.mktemp("model"), tokenizer=True)


@pytest.fixture(scope="module")
def url(folder):
    """A server that calls the tiny model by the default model's name."""
    flags = ["--served-model-name", NAME, "--memory", "256MiB", "--max-num-seqs", "4", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "octavo", "serve", str(folder), *flags], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = re.search(r"ready on (http://\S+)", process.stdout.readline())
        assert ready
        yield ready[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_llm_example(folder):
    example = next(block for block in blocks("python") if "from octavo" in block)
    assert NAME in example and '"2GiB"' in example
    code = example.replace(NAME, str(folder)).replace("2GiB", "256MiB")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip()


def test_openai_example(url):
    example = next(block for block in blocks("python") if "from openai" in block)
    assert URL in example
    code = example.replace(URL, url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip()


def test_curl_example(url):
    command = next(block for block in blocks("") if block.startswith("curl"))
    body = re.search(r"-d '(.*)'", command, re.DOTALL)
    path = re.search(rf"{URL}(\S+)", command)
    assert body and path and "Content-Type: application/json" in command
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path[1], body[1].encode(), headers), timeout=60) as answer:
        assert json.load(answer)["choices"][0]["message"]["role"] == "assistant"
