"""Folders of sentence-transformers, as it saves them: its vectors from their texts; and what is refused of them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_process

from octavo import LLM
from octavo.checkpoint.modules import read_modules
from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError
from octavo.core.request import PoolingParams, Request
from octavo.engine.client import ProcessClient
from octavo.text.tokenizer import load_tokenizer

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted((DATA / "sentences").iterdir())
CUT = PoolingParams(truncate_prompt_tokens=-1)
EXACT = {"dtype": "float32", "kv_cache_dtype": "float32"}


def opened(folder: Path, **fields) -> LLM:
    return LLM(folder, memory="256MiB", threads=1, packed_cache=False, **fields)


@pytest.mark.parametrize("executor", ["reference", "cpu"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_vectors_are_those_of_sentence_transformers(folder: Path, executor: str) -> None:
    """From text on; the last text is longer than the model takes."""
    expected = json.loads((folder / "expected.json").read_text())
    with opened(folder, executor=executor, **EXACT) as llm:
        assert llm.info.max_len == expected["longest"]
        found = llm.embed(expected["texts"], CUT, use_tqdm=False)
    assert len(found[-1].prompt_token_ids) == expected["longest"]
    for each, wanted in zip(found, expected["vectors"], strict=True):
        np.testing.assert_allclose(each.outputs.embedding, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "cls-dense", "last-two-dense"])
def test_in_codes_of_8_bits_vectors_stay_near(name: str) -> None:
    """What stands behind the model, its Dense layers too, stays as it is."""
    folder = DATA / "sentences" / name
    expected = json.loads((folder / "expected.json").read_text())
    with opened(folder, quantization="int8") as llm:
        found = [each.outputs.embedding for each in llm.embed(expected["texts"], CUT, use_tqdm=False)]
    for vector, wanted in zip(np.array(found), np.array(expected["vectors"]), strict=True):
        distance = 1 - vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted)
        assert 1e-7 < distance < 0.02


@pytest.mark.oracle
def test_models_made_anew_equal_the_committed_ones(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA / "make_sentence_fixtures.py", tmp_path], check=True)
    for folder in FOLDERS:
        made = tmp_path / folder.name
        for path in folder.rglob("*.safetensors"):
            assert path.read_bytes() == (made / path.relative_to(folder)).read_bytes()
        new, old = (json.loads((path / "expected.json").read_text()) for path in (made, folder))
        assert (new["longest"], new["texts"]) == (old["longest"], old["texts"])
        np.testing.assert_allclose(new["vectors"], old["vectors"], atol=1e-5)


def test_texts_are_lowered_where_the_folder_says_so() -> None:
    """Its tokenizer alone tells capitals apart."""
    ids = []
    for name in ("lower", "mean"):
        with open_source(DATA / "sentences" / name) as source:
            tokenizer = load_tokenizer(source)
        ids.append([tokenizer.encode(text) for text in ("the cat", "The CAT")])
    assert ids[0][0] == ids[0][1] == ids[1][0] != ids[1][1]


def test_an_engine_process_gives_the_same_vectors() -> None:
    folder = DATA / "sentences" / "mean"
    prompts = [[2, 30, 31, 3], [2, *range(4, 30), 3], [2, 3]]
    with opened(folder) as llm:
        wanted = [each.outputs.data for each in llm.encode(prompts, use_tqdm=False)]

    async def asked(client: ProcessClient, number: int) -> np.ndarray:
        request = Request(id=str(number), prompt=prompts[number], pooling=PoolingParams())
        [output] = [output async for output in client.generate(request)]
        assert (output.finish, output.tokens) == ("stop", [])
        return np.frombuffer(output.vector, np.float32)

    async def served() -> list[np.ndarray]:
        client = ProcessClient(tiny_process.launch_of(str(folder)))
        await client.start()
        try:
            deadline = time.monotonic() + 20.0
            while client.status().state != "ready":
                assert time.monotonic() < deadline, client.status()
                await asyncio.sleep(0.01)
            return await asyncio.gather(*(asked(client, number) for number in range(len(prompts))))
        finally:
            await client.stop(0.0)

    for found, expected in zip(asyncio.run(served()), wanted, strict=True):
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def modules(*kinds: str) -> Callable[[Path], None]:
    """Change a folder's list."""

    def change(folder: Path) -> None:
        listed = [
            {"type": f"sentence_transformers.models.{kind}", "path": f"{n}_{kind}"} for n, kind in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(listed))

    return change


def setting(file: str, **changed: Any) -> Callable[[Path], None]:
    """Change a file's settings."""

    def change(folder: Path) -> None:
        path = folder / file
        old = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(old | changed))

    return change


POOLING = "1_Pooling/config.json"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (modules("Transformer", "Pooling", "LSTM"), "a module 'LSTM' is not supported; Pooling, Dense and Normalize"),
        (modules("Transformer"), "Transformer: this order is not supported; expected Transformer, Pooling"),
        (modules("Transformer", "Pooling", "Pooling"), "in this order, and one Pooling"),
        (modules("Transformer", "Dense", "Pooling"), "Transformer, Dense, Pooling: this order is not supported"),
        (modules("Transformer", "Pooling", "Normalize", "Dense"), "Normalize, Dense: this order is not supported"),
        (lambda folder: (folder / "modules.json").write_text("[1]"), "not a list of modules, each with type and path"),
        (
            lambda folder: (folder / "modules.json").write_text('[{"type": "x.Pooling", "path": "../a"}]'),
            "'../a' is not a",
        ),
        (setting(POOLING, pooling_mode="max"), "pooling_mode: 'max' is not supported; expected one of cls, mean, last"),
        (setting(POOLING, pooling_mode=["mean", "max"]), "pooling_mode: 'mean and max' is not supported"),
        (setting(POOLING, pooling_mode={"mean": 1}), "is not supported; expected one of cls"),
        (setting("sentence_bert_config.json", max_seq_length="x"), "max_seq_length: 'x' is not a number of tokens"),
        (setting("tokenizer_config.json", model_max_length=-1), "model_max_length: '-1' is not a number of tokens"),
        (
            setting("config_sentence_transformers.json", default_prompt_name="query"),
            "default_prompt_name: 'query' is not supported; set it to null",
        ),
        (setting("2_Dense/config.json", activation_function="torch.nn.modules.activation.Mish"), "activation_function"),
    ],
)
def test_what_would_give_other_vectors_is_refused(tmp_path: Path, change: Callable[[Path], None], told: str) -> None:
    folder = shutil.copytree(DATA / "sentences" / "cls-dense", tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match=told) as caught:
        opened(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_how_tokens_are_pooled_is_read_as_old_and_new_versions_write_it(
    tmp_path: Path, written: dict[str, Any], kind: str
) -> None:
    modules("Transformer", "Pooling", "Dropout")(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / POOLING).write_text(json.dumps(written))
    found = read_modules(tmp_path)
    assert (found.pooling, found.dense, found.normalize, found.max_len, found.lower) == (kind, (), False, 0, False)


@pytest.mark.parametrize(
    ("bert", "tokenizer", "longest"),
    [(16, 32, 16), (None, 32, 32), (None, 10**30, 0), (None, 1e30, 0), (None, None, 0), (64, None, 64)],
)
def test_the_longest_text(tmp_path: Path, bert: int | None, tokenizer: float | None, longest: int) -> None:
    modules("Transformer", "Pooling")(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / POOLING).write_text('{"pooling_mode": "cls"}')
    setting("sentence_bert_config.json", max_seq_length=bert)(tmp_path)
    setting("tokenizer_config.json", model_max_length=tokenizer)(tmp_path)
    assert read_modules(tmp_path).max_len == longest
