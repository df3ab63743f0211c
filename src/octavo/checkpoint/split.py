"""A GGUF model in one file, or in several parts that are opened by naming the first: metadata, tensors, maps. No model.

Parts are named as llama-gguf-split names them, NAME-00001-of-00003.gguf; each says its number and how many there are,
and the first alone holds the metadata. Invariant: a model is opened whole or not at all.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from octavo.checkpoint.gguf import Metadata, read_gguf
from octavo.checkpoint.tensor import Mapped, Tensor, shown
from octavo.core.errors import ModelError

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"
LISTED = 4  # most missing parts an error names


def parts_of(name: str) -> list[str]:
    """The names of all files of a model, given the first, or the only one."""
    match = PART.fullmatch(name)
    if not match or int(match[2]) != 1:
        return [name]
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)] or [name]


def is_later_part(name: str) -> bool:
    """Whether a file is named as a part that is not the first."""
    match = PART.fullmatch(name)
    return bool(match and int(match[2]) > 1)


def open_gguf(path: Path) -> tuple[tuple[Mapped, ...], Metadata, dict[str, Tensor]]:
    """Map and read a model's files; unmapped again if one is damaged or missing. Raises ModelError."""
    with ExitStack() as opened:
        files = [_mapped(path, opened)]
        metadata, tensors = read_gguf(files[0])
        count = metadata.get(COUNT, 1)
        if count not in (0, 1):
            for number, part in enumerate(_others(path, metadata, count), 1):
                files.append(_mapped(part, opened))
                _add(tensors, files[-1], number, count)
            _check_total(path, metadata, tensors)
        opened.pop_all()
        return tuple(files), metadata, tensors


def _mapped(path: Path, opened: ExitStack) -> Mapped:
    file = Mapped(path)
    opened.callback(file.close)
    return file


def _others(path: Path, metadata: Metadata, count: object) -> list[Path]:
    """The parts behind the first, all there."""
    number = metadata.get(NUMBER)
    match = PART.fullmatch(path.name)
    if not match or not isinstance(count, int) or int(match[3]) != count:
        name = f"NAME-00001-of-{count:05d}.gguf" if isinstance(count, int) and 0 < count < 10**5 else "of several"
        raise ModelError(f"{path}: says {COUNT} {_told(count)}; a part is named {name}, beside the others")
    if number != 0 or int(match[2]) != 1:
        raise ModelError(f"{path}: is part {match[2]} of {count} ({NUMBER} {_told(number)}); name the first, 00001")
    others = [path.with_name(name) for name in parts_of(path.name)[1:]]
    missing = [part.name for part in others if not part.is_file()]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise ModelError(f"{path}: parts are missing beside it: {', '.join(missing[:LISTED])}{more}")
    return others


def _add(tensors: dict[str, Tensor], file: Mapped, number: int, count: object) -> None:
    """The tensors of a part behind the first."""
    metadata, found = read_gguf(file)
    told = metadata.get(NUMBER), metadata.get(COUNT)
    if told != (number, count):
        said = ", ".join(map(_told, told))
        raise ModelError(f"{file.path}: says {NUMBER}, {COUNT} {said}, expected {number}, {count}: of another model")
    for name in found:
        if name in tensors:
            raise ModelError(f"{file.path}: the tensor {shown(name)} is in another part too")
    tensors.update(found)


def _check_total(path: Path, metadata: Metadata, tensors: dict[str, Tensor]) -> None:
    """As many tensors as the first part announces."""
    total = metadata.get(TENSORS, len(tensors))
    if total != len(tensors):
        raise ModelError(f"{path}: says {TENSORS} {_told(total)}, but its parts hold {len(tensors)}")


def _told(value: object) -> str:
    """What a file says, for an error."""
    return shown(value) if isinstance(value, str) else repr(value)[:40]
