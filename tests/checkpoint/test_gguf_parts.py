"""Models in several GGUF files: opened by their first part, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf_file
import numpy as np
import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.source import open_source
from octavo.checkpoint.split import is_later_part, open_gguf, parts_of
from octavo.core.errors import ModelError
from octavo.models.load import load
from octavo.models.registry import read_spec

COMMITTED = Path(__file__).parents[1] / "data" / "gguf"
FIRST = "parts-00001-of-00003.gguf"


def part_bytes(number: int, count: int, tensors: dict, metadata: dict | None = None) -> bytes:
    keys = {"split.no": ("u16", number), "split.count": ("u16", count), **(metadata or {})}
    return gguf_file.file_bytes(keys, tensors)


def named(number: int, count: int, name: str = "x") -> str:
    return f"{name}-{number:05d}-of-{count:05d}.gguf"


def values(*numbers: float) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", (len(numbers),), np.array(numbers, np.float32).tobytes()


def write_parts(folder: Path, count: int = 3, **first: object) -> Path:
    """`count` files of a tensor each. first: more keys of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        keys = {"about": "all", "split.tensors.count": ("i32", count), **first} if i == 0 else {}
        (folder / named(i + 1, count)).write_bytes(part_bytes(i, count, {f"t{i}": values(i, 7)}, keys))
    return folder / named(1, count)


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        open_source(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_files_of_the_gguf_package_are_one_model() -> None:
    with open_source(COMMITTED / FIRST) as source:
        assert list(source.tensors) == [f"t{i}" for i in range(5)]
        for i, tensor in enumerate(source.tensors.values()):
            assert tensor.shape == (2, 3 + i)
            assert np.array_equal(tensor.read().view(np.float32), np.full(2 * (3 + i), i, np.float32))
        assert [file.path.name for file in source.files] == parts_of(FIRST)


def test_the_folder_of_a_model_in_parts_is_that_model(tmp_path: Path) -> None:
    path = write_parts(tmp_path)
    with open_source(tmp_path) as source:
        assert source.path == path
        assert source.metadata["about"] == "all"
        assert [tensor.read().view(np.float32)[0] for tensor in source.tensors.values()] == [0, 1, 2]
    tiny_llama.write_gguf(tmp_path / "other.gguf")
    refused(tmp_path, "holds 2 .gguf files, name one of them")


def test_weights_are_the_same_in_one_file_or_several(tmp_path: Path) -> None:
    whole = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q4_1")
    with open_source(whole) as source:
        tensors = {name: (t.dtype, t.shape, t.read().tobytes()) for name, t in source.tensors.items()}
        keys, wanted = dict(source.metadata), load(source, read_spec(source))
    keys = {key: value for key, value in keys.items() if not isinstance(value, list)}
    names = list(tensors)
    cut = [names[:3], names[3:4], [], names[4:]]
    for i, some in enumerate(cut):
        more = keys | {"split.tensors.count": ("i32", len(names))} if i == 0 else {}
        raw = part_bytes(i, len(cut), {name: tensors[name] for name in some}, more)
        (tmp_path / named(i + 1, len(cut), "y")).write_bytes(raw)
    with open_source(tmp_path / named(1, len(cut), "y")) as source:
        found = load(source, read_spec(source))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        one, other = (getattr(part, "data", part) for part in (weight, found[name]))
        assert np.array_equal(np.asarray(one), np.asarray(other)), name


def test_missing_parts_are_named(tmp_path: Path) -> None:
    path = write_parts(tmp_path, 8)
    (tmp_path / named(4, 8)).unlink()
    refused(path, r"parts are missing beside it: x-00004-of-00008\.gguf$")
    for number in (3, 5, 6, 7, 8):
        (tmp_path / named(number, 8)).unlink()
    refused(path, r"missing beside it: x-00003-of-00008\.gguf, x-00004.*x-00006-of-00008\.gguf and 2 more$")


def test_other_parts_than_the_first_are_not_opened(tmp_path: Path) -> None:
    path = write_parts(tmp_path)
    refused(tmp_path / named(2, 3), r"is part 00002 of 3 \(split\.no 1\); name the first, 00001$")
    shutil.copy(tmp_path / named(2, 3), path)
    refused(path, r"is part 00001 of 3 \(split\.no 1\)")


@pytest.mark.parametrize("count", [2, 4, 70000, -1, 3.5, "3", [3], "x" * 9000])
def test_what_a_name_and_the_file_say_must_agree(tmp_path: Path, count: object) -> None:
    kept = ("i32", count) if isinstance(count, int) else count
    path = write_parts(tmp_path, **{"split.count": kept})
    refused(path, "says split.count .*; a part is named")


def test_a_part_by_another_name_is_refused(tmp_path: Path) -> None:
    path = write_parts(tmp_path).rename(tmp_path / "renamed.gguf")
    refused(path, r"says split\.count 3; a part is named NAME-00001-of-00003\.gguf, beside the others$")


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    path, second = write_parts(tmp_path), tmp_path / named(2, 3)
    whole = second.read_bytes()
    second.write_bytes(part_bytes(2, 3, {"t1": values(1)}))
    refused(path, r"00002-of-00003\.gguf: says split\.no, split\.count 2, 3, expected 1, 3")
    second.write_bytes(gguf_file.file_bytes({}, {"t1": values(1)}))
    refused(path, r"says split\.no, split\.count None, None")
    second.write_bytes(part_bytes(1, 3, {"t0": values(1)}))
    refused(path, r"00002-of-00003\.gguf: the tensor 't0' is in another part too")
    second.write_bytes(part_bytes(1, 3, {"t1": values(1), "more": values(2)}))
    refused(path, r"says split\.tensors\.count 3, but its parts hold 4")
    second.write_bytes(whole[:-32])
    refused(path, r"00002-of-00003\.gguf: truncated GGUF")


def test_one_file_that_says_it_is_all_needs_no_number_in_its_name(tmp_path: Path) -> None:
    for count in (0, 1):
        path = gguf_file.write(tmp_path / "x.gguf", {"split.count": ("u16", count)}, {"t": values(1)})
        with open_source(path) as source:
            assert list(source.tensors) == ["t"]


def test_nothing_stays_mapped_of_what_is_refused(tmp_path: Path) -> None:
    path = write_parts(tmp_path)
    (tmp_path / named(3, 3)).write_bytes(b"GGUF")
    with pytest.raises(ModelError):
        open_gguf(path)
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()


def test_names_of_parts() -> None:
    assert parts_of("a/m-00001-of-00002.gguf") == ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"]
    for alone in ("m.gguf", "m-00002-of-00003.gguf", "m-00001-of-00000.gguf", "m-1-of-2.gguf"):
        assert parts_of(alone) == [alone]
    assert is_later_part("m-00002-of-00003.gguf")
    assert not is_later_part(FIRST) and not is_later_part("m.gguf")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_parts_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("parts")
    path = write_parts(folder)
    for victim in data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=2, unique=True)):
        file = folder / named(victim, 3)
        raw = bytearray(file.read_bytes())
        if data.draw(st.booleans()):
            raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
        for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)) if raw else ():
            raw[at] = data.draw(st.integers(0, 255))
        file.write_bytes(raw)
    message = ""
    try:
        with open_source(path) as source:
            dict(source.metadata)
            sizes = {id(file): file.size for file in source.files}
            for tensor in source.tensors.values():
                assert tensor.start + tensor.nbytes <= sizes[id(tensor.file)]
                assert tensor.read().shape == (tensor.nbytes,)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message
