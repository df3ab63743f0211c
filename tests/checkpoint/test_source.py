"""Opening a path: what may be given, and what is said of anything else."""

import os

import pytest
import tiny_llama

from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError


def test_a_folder_with_one_gguf_is_that_file(tmp_path):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf")
    with open_source(tmp_path) as source:
        assert source.path == path
        assert source.kind == "gguf"


def test_safetensors_come_before_a_gguf_beside_them(tmp_path):
    tiny_llama.write_folder(tmp_path)
    tiny_llama.write_gguf(tmp_path / "x.gguf")
    with open_source(tmp_path) as source:
        assert source.kind == "safetensors"


def test_what_cannot_be_opened_says_what_would_do(tmp_path):
    model = tiny_llama.write_folder(tmp_path / "model")
    two = tmp_path / "two"
    for name in ("a", "b"):
        tiny_llama.write_gguf(two / f"{name}.gguf")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    bare = tiny_llama.write_folder(tmp_path / "bare")
    (bare / "config.json").unlink()
    os.mkfifo(tmp_path / "pipe.gguf")
    cases = {
        tmp_path / "nowhere": "no such file or folder; expected a .gguf file or a folder",
        tmp_path / ("x" * 5000): "no such file or folder",
        tmp_path / "pipe.gguf": "no such file",
        model / "model.safetensors": "give the folder that holds it",
        model / "config.json": "not a GGUF file",
        two: "holds 2 .gguf files, name one of them",
        pickled: "config.json is missing",
        tmp_path / "empty": "holds neither",
        bare: "config.json is missing",
    }
    for path, words in cases.items():
        with pytest.raises(ModelError, match=words) as caught:
            open_source(path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "nul", "[1]", '{"a": 1, "a": 2}', "{" * 5000, '{"a": "\\ud800'])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    folder = tiny_llama.write_folder(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        open_source(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf")
    path.chmod(0)
    with pytest.raises(ModelError, match="Permission denied"):
        open_source(path)
