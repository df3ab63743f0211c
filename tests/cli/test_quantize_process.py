"""octavo quantize and --quantize as processes: the folder, its report, what is said, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama

from octavo.checkpoint.source import open_source
from octavo.core.request import SamplingParams
from octavo.engine.llm import LLM
from octavo.models.load import footprint
from octavo.models.registry import read_spec

SMALL = ("--memory", "256MiB")
TEXT = "the rain in spain stays mainly in the plain, and other theories of the weather. " * 200


def octavo(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command, and check its exit code."""
    command = [sys.executable, "-m", "octavo", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    return done


def generate(folder: Path, prompt: str, *args: object) -> dict:
    """The JSON of `octavo generate`."""
    said = octavo("generate", prompt, "--model", folder, "--json", "--max-tokens", 12, *SMALL, *args)
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads 64 tokens at once."""
    return tiny_llama.write_folder(tmp_path_factory.mktemp("plain"), tokenizer=True, max_len=64)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_a_folder_is_written_reported_and_served(folder, text, tmp_path) -> None:
    out = tmp_path / "out"
    said = octavo("quantize", folder, out, "--calibration", text, "--calibration-tokens", 512)
    found = json.loads((out / "quantization.json").read_text())
    assert (out / "quantization.png").read_bytes().startswith(b"\x89PNG")
    results = found["results"]
    assert results["bytes"]["after"] < results["bytes"]["before"]
    assert results["perplexity"]["before"] > 1 and results["perplexity"]["after"] > 1
    assert len(results["matrices"]) == 14 and all(0 < one["error"] < 0.5 for one in results["matrices"])
    assert str(out) in said.stdout and f"{results['perplexity']['after']:.3f}" in said.stdout
    assert "quantizing 100%" in said.stderr
    assert len(generate(out, "the rain in", "--seed", 5)["answers"][0]["token_ids"]) == 12


def test_without_text_nothing_is_measured_but_the_matrices(folder, tmp_path) -> None:
    said = octavo("quantize", folder, tmp_path / "out", "--scheme", "int8", "--no-picture", "--json")
    found = json.loads(said.stdout)
    assert found == json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert found["results"]["perplexity"] == {"before": None, "after": None}
    assert found["settings"]["scheme"] == "int8" and not (tmp_path / "out" / "quantization.png").exists()


def test_switches_and_a_text_of_its_own_for_perplexity(folder, text, tmp_path) -> None:
    told = {}
    for name, flags in {"both": (), "neither": ("--no-gptq", "--no-awq"), "finer": ("--group-size", 32)}.items():
        flags = (*flags, "--calibration", text, "--calibration-tokens", 256, "--perplexity", text, "--no-picture")
        said = octavo("quantize", folder, tmp_path / name, "--json", "--damping", 0.02, *flags)
        told[name] = json.loads(said.stdout)["results"]
    assert len({one["perplexity"]["before"] for one in told.values()}) == 1
    means = {name: sum(m["error"] for m in one["matrices"]) for name, one in told.items()}
    assert means["both"] < means["neither"] and means["finer"] < means["both"]
    asymmetric = octavo("quantize", folder, tmp_path / "zeros", "--no-symmetric", "--no-picture", "--json")
    assert json.loads(asymmetric.stdout)["settings"]["symmetric"] is False
    with open_source(tmp_path / "zeros") as source:
        assert any(name.endswith("weight_zero_point") for name in source.tensors)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--calibration", "nowhere.txt"), "--calibration: 'nowhere.txt' is not accepted; a text file: No such file"),
        (("--calibration", "short.txt"), "a text of at least 64 tokens; this one has 2"),
        (("--perplexity", "short.txt"), "--perplexity: 'short.txt' is not accepted"),
        (("--calibration", "bytes.txt"), "a text file in UTF-8"),
        (("--calibration", "long.txt", "--calibration-tokens", 63), "--calibration-tokens: 63 is not accepted"),
        (("--damping", 0), "--damping: 0.0 is not accepted; above 0"),
        (("--group-size", 48), "--group-size: 48 is not accepted; 32, 64, 96 or 128"),
        (("--scheme", "int8", "--no-symmetric"), "--symmetric: False is not accepted; zero points are for int4"),
        (("--scheme", "int3"), "--scheme: 'int3' is not accepted; one of int4, int8"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_line(folder, tmp_path, monkeypatch, flags, told) -> None:
    (tmp_path / "short.txt").write_text("ab")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe" * 500)
    (tmp_path / "long.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    said = octavo("quantize", folder, "out", *flags, code=2)
    assert told in said.stderr and said.stderr.count("\n") == 1 and not Path("out").exists()


def test_places_that_do_not_do_are_named(folder, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for out in (folder, tmp_path / "file" / "out"):
        said = octavo("quantize", folder, out, code=2)
        assert str(out) in said.stderr and said.stderr.count("\n") == 1
    gguf = tiny_llama.write_gguf(tmp_path / "model.gguf", tokenizer=True)
    assert "GGUF" in octavo("quantize", gguf, tmp_path / "out", code=2).stderr


def test_plan_counts_what_quantizing_at_load_leaves(folder) -> None:
    sizes = {}
    for scheme in ("none", "int8", "int4"):
        found = json.loads(octavo("plan", folder, "--json", "--quantize", scheme, *SMALL).stdout)
        with open_source(folder) as source:
            assert found["weights"] == footprint(source, read_spec(source), "auto", scheme)
        sizes[scheme] = found["weights"]
    assert sizes["int4"]["attention"] < 0.6 * sizes["int8"]["attention"] < 0.36 * sizes["none"]["attention"]
    assert sizes["int4"]["embedding"] == sizes["int8"]["embedding"] < 0.6 * sizes["none"]["embedding"]


def test_quantized_at_load_the_command_and_python_answer_alike(folder, tmp_path) -> None:
    cache = ("--cache-dir", tmp_path / "cache")
    told = generate(folder, "the rain in", "--quantize", "int4", "--temperature", 0, *cache)
    again = generate(folder, "the rain in", "--quantization", "int4", "--temperature", 0, *cache)
    generate(folder, "the rain in", "--temperature", 0, *cache)
    assert told["answers"] == again["answers"]
    kept = json.loads(octavo("models", "--json", *cache).stdout)["packed"]
    assert len(kept) == 2, "plain and quantized weights are kept apart"
    with LLM(folder, quantization="int4", memory="256MiB", packed_cache=False) as llm:
        (out,) = llm.generate(told["prompt"], SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
    assert list(out.outputs[0].token_ids) == told["answers"][0]["token_ids"]


def test_what_is_quantized_already_is_refused(tmp_path) -> None:
    model = tiny_llama.write_gguf(tmp_path / "model.gguf", tokenizer=True, dtype="Q4_0")
    said = octavo("generate", "a", "--model", model, "--quantize", "int8", *SMALL, code=2)
    assert "--quantize: 'int8' is not accepted" in said.stderr and "quantized already (Q" in said.stderr
    assert said.stderr.count("\n") == 1
