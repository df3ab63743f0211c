"""Models from a hub, through huggingface_hub and a hub of our own on this machine; and what the cache then holds."""

import json
import socket
from pathlib import Path

import fake_hub
import pytest
import safetensors_file
import tiny_llama
from fake_hub import COMMIT, TOKEN, FakeHub

from octavo.checkpoint import hub
from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError

PARTS = Path(__file__).parents[1] / "data" / "gguf"
README = b"---\nlicense: mit\ntags: [x]\n---\n# A model\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_llama.write_folder(tmp_path_factory.mktemp("model"), shards=2, tokenizer=True)
    extra = {"README.md": README, "pytorch_model.bin": b"pickle", "consolidated.safetensors": b"other", "x.py": b"evil"}
    return {path.name: path.read_bytes() for path in folder.iterdir()} | extra


@pytest.fixture
def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fetched(hub_server):
    return {path.rpartition("/")[2] for method, path in hub_server.requests if method == "GET" and "/resolve/" in path}


def refused(words, model, **options):
    with pytest.raises(ModelError, match=words) as caught:
        hub.resolve(model, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_pickled_weights_are_fetched_where_there_are_no_others(files, tmp_path):
    pickled = (Path(__file__).parents[1] / "data" / "pickled" / "zip.bin").read_bytes()
    left = {name: data for name, data in files.items() if "safetensors" not in name} | {"pytorch_model.bin": pickled}
    with FakeHub({"org/m": left}) as server:
        path = hub.resolve("org/m", cache_dir=tmp_path, endpoint=server.endpoint)
        assert fetched(server) == set(left) - {"x.py"}
    with open_source(path) as source:
        assert "embed.weight" in source.tensors


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_modules_of_sentence_transformers_are_fetched(files, tmp_path, weights):
    modules = {
        "modules.json": b"[]",
        "sentence_bert_config.json": b"{}",
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": b"{}",
        f"2_Dense/{weights}": b"weights",
    }
    others = {"onnx/model.onnx": b"other", "onnx/config.json": b"{}", "2_Dense/rust_model.ot": b"other"}
    with FakeHub({"org/m": {**files, **modules, **others}}) as server:
        path = hub.resolve("org/m", cache_dir=tmp_path, endpoint=server.endpoint)
    assert all((path / name).read_bytes() == data for name, data in modules.items())
    assert not any((path / name).exists() for name in (*others, "pytorch_model.bin"))


def test_a_repository_is_fetched_once_and_only_what_is_read(files, tmp_path, closed_port):
    seen = []
    with FakeHub({"org/m": files}) as server:
        options = {"cache_dir": tmp_path, "endpoint": server.endpoint}
        path = hub.resolve("org/m", progress=lambda *report: seen.append(report), **options)
        with open_source(path) as source:
            assert len(source.tensors) == 20
        assert fetched(server) == set(files) - {"pytorch_model.bin", "consolidated.safetensors", "x.py"}
        total = sum(len(files[name]) for name in fetched(server))
        assert seen[-1] == ("org/m", total, total)
        assert all(0 <= done <= total for _, done, _ in seen)
        server.requests.clear()
        seen.clear()
        assert hub.resolve("org/m", progress=lambda *report: seen.append(report), **options) == path
        assert not fetched(server)
        assert not seen
    # Where the hub cannot be reached, what is there is used.
    assert hub.resolve("org/m", cache_dir=tmp_path, endpoint=f"http://127.0.0.1:{closed_port}") == path
    (entry,) = hub.list_models(tmp_path)
    whole = sum(
        len(files[name]) for name in ("README.md", *(n for n in files if n.endswith((".json", ".safetensors"))))
    )
    assert (entry.name, entry.path, entry.licence) == ("org/m", path, "mit")
    assert entry.nbytes == whole - len(files["consolidated.safetensors"])


def test_an_unreachable_hub_is_one_line(tmp_path, closed_port):
    refused("the hub cannot be reached", "org/m", cache_dir=tmp_path, endpoint=f"http://127.0.0.1:{closed_port}")
    assert hub.list_models(tmp_path) == []


def test_one_gguf_of_a_repository(tmp_path):
    data = tiny_llama.write_gguf(tmp_path / "x.gguf").read_bytes()
    repository = {"a[1].gguf": data, "sub/b.gguf": data + bytes(32), "README.md": README}
    with FakeHub({"org/g": repository}) as server:
        options = {"cache_dir": tmp_path / "cache", "endpoint": server.endpoint}
        for name in ("a[1].gguf", "sub/b.gguf"):
            path = hub.resolve(f"org/g/{name}", **options)
            assert path.read_bytes() == repository[name]
        assert fetched(server) == {"a[1].gguf", "b.gguf", "README.md"}
        refused("no safetensors files; its .gguf files are .*, as in org/g/a", "org/g", **options)
        refused(r"there is no c\.gguf; its \.gguf files are a\[1\]\.gguf, sub/b\.gguf", "org/g/c.gguf", **options)
    names = [(entry.name, entry.nbytes, entry.licence) for entry in hub.list_models(tmp_path / "cache")]
    assert names == [("org/g/a[1].gguf", len(data), "mit"), ("org/g/sub/b.gguf", len(data) + 32, "mit")]


def test_a_gguf_in_parts_is_fetched_and_listed_as_one(tmp_path):
    parts = {path.name: path.read_bytes() for path in sorted(PARTS.glob("parts-*.gguf"))}
    first, second, third = parts
    lacking = {first: parts[first], third: parts[third]}
    with FakeHub({"org/p": parts | {"other.gguf": b""}, "org/q": lacking}) as server:
        options = {"cache_dir": tmp_path, "endpoint": server.endpoint}
        with open_source(hub.resolve(f"org/p/{first}", **options)) as source:
            assert len(source.tensors) == 5
        assert fetched(server) == set(parts)
        refused(f"there is no {second}", f"org/q/{first}", **options)
    (entry,) = hub.list_models(tmp_path)
    assert (entry.name, entry.nbytes) == (f"org/p/{first}", sum(map(len, parts.values())))
    (entry.path.parent / second).unlink()
    assert hub.list_models(tmp_path) == []


def test_what_the_hub_refuses(files, tmp_path):
    with FakeHub({"org/m": files, "org/gated": files, "org/bare": {"x": b""}}, gated=["org/gated"]) as server:
        options = {"cache_dir": tmp_path, "endpoint": server.endpoint}
        refused("no such repository on the hub", "org/none", **options)
        refused("org/m at revision v9: the repository has no such revision", "org/m", revision="v9", **options)
        refused("gated: accept its terms on the hub, and give a token", "org/gated", **options)
        refused("gated", "org/gated", token="wrong", **options)
        refused("there are no safetensors files", "org/bare", **options)
        assert not fetched(server)
        path = hub.resolve("org/gated", token=TOKEN, **options)
        assert (path / "config.json").read_bytes() == files["config.json"]


def test_a_revision_is_pinned(files, tmp_path):
    with FakeHub({"org/m": files}, revisions=["main", "v1"]) as server:
        options = {"cache_dir": tmp_path, "endpoint": server.endpoint}
        for revision in ("v1", COMMIT):
            server.requests.clear()
            assert hub.resolve("org/m", revision=revision, **options).name == COMMIT
            assert ("GET", f"/api/models/org/m/revision/{revision}") in server.requests


def test_a_download_that_breaks_off_is_an_error_and_can_be_taken_up_again(files, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    (shard,) = [name for name in files if name.endswith("1-of-00002.safetensors")]
    with FakeHub({"org/m": files}) as server:
        options = {"cache_dir": tmp_path, "endpoint": server.endpoint}
        server.cut.add(shard)
        refused("the transfer broke off; try again", "org/m", **options)
        assert hub.list_models(tmp_path) == []
        server.cut.clear()
        path = hub.resolve("org/m", **options)
        with open_source(path) as source:
            assert len(source.tensors) == 20


def test_a_server_that_fails_is_one_line(tmp_path, monkeypatch):
    def failing(self):
        self._fail(500, "", "boom")

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(fake_hub._Handler, "_answer", failing)
    with FakeHub({}) as server:
        refused("the hub answered with status 500", "org/m", cache_dir=tmp_path, endpoint=server.endpoint)


def test_an_unfinished_snapshot_is_not_listed(tmp_path):
    snapshot = tmp_path / "hub" / "models--org--m" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert hub.list_models(tmp_path) == []
    safetensors_file.write_shards(snapshot, [{}, {}])
    (snapshot / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    assert hub.list_models(tmp_path) == []  # no config.json
    (snapshot / "config.json").write_text("{}")
    assert [entry.name for entry in hub.list_models(tmp_path)] == ["org/m"]
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    assert hub.list_models(tmp_path) == []
