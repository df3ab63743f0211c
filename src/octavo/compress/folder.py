"""The quantized folder: made whole under another name, its file as long as it will be from the start, then renamed.

Invariant: under its final name the folder is complete and has reached the disk; whatever goes wrong leaves nothing
behind. What a killed process could not remove is removed by the next that writes the same folder: a writer holds a lock
on its file. Knows no calibration.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import secrets
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from octavo.checkpoint.safetensors import INDEX, SINGLE
from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.quant.compressed_file import Declared, Stored, coded_shapes, settings
from octavo.quant.search import Grid

UNFINISHED = ".part"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot")  # not copied


class Folder:
    """Writes tensors in any order, each once; `finish` gives the folder its name. A context manager.

    grids: the codes of each matrix that may have some, by its stored name. ignored: modules besides that stay plain.
    Raises ModelError where the folder cannot be written, before anything is read if that is known.
    """

    def __init__(self, source: Source, out: Path, grids: Mapping[str, Grid | None], ignored: Sequence[str]) -> None:
        self.source, self.out = source, out
        self._grids, self._ignored = grids, ignored
        self._made = out.with_name(f".{out.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self._left = declared(source, grids)
        self._at: dict[str, tuple[int, int]] = {}
        self.bytes_before = sum(tensor.nbytes for tensor in source.tensors.values())
        self.bytes_after = 0
        self._file = -1

    def __enter__(self) -> Folder:
        if self.out.exists():
            raise ModelError(f"{self.out}: is there already; name a folder that is not")
        header = self._header()
        with self._explained():
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._made.mkdir()
        try:
            with self._explained():
                self._file = os.open(self._made / SINGLE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                os.posix_fallocate(self._file, 0, len(header) + self.bytes_after)
                os.pwrite(self._file, header, 0)
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def put(self, tensors: Mapping[str, Stored]) -> None:
        """Write some of the tensors."""
        for name, (dtype, shape, data) in tensors.items():
            assert self._left.pop(name) == (dtype, shape), name
            start, nbytes = self._at[name]
            assert data.nbytes == nbytes, name
            with self._explained():
                view = data.data.cast("B")
                while len(view):
                    written = os.pwrite(self._file, view, start)
                    view, start = view[written:], start + written

    def put_rest(self) -> None:
        """Write what is left, as it is in the source."""
        for name in list(self._left):
            tensor = self.source.tensors[name]
            self.put({name: (tensor.dtype, tensor.shape, tensor.read())})
            tensor.release()

    def finish(self) -> None:
        """Add the settings and the files beside the weights, and give the folder its name."""
        assert not self._left, sorted(self._left)
        with self._explained():
            for path in sorted(self.source.path.iterdir()):
                if path.is_file() and path.suffix not in WEIGHTS and path.name not in (INDEX, "config.json"):
                    shutil.copyfile(path, self._made / path.name)
            config = {**self.source.config, "quantization_config": settings(self._grids, self._ignored)}
            (self._made / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            os.fsync(self._file)
            self._close()
            self._made.rename(self.out)

    def _header(self) -> bytes:
        """The file's header (see checkpoint/safetensors.py); decides where each tensor lies."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for name, (dtype, shape) in self._left.items():
            nbytes = SIZES[dtype] * int(np.prod(shape, dtype=np.int64)) if dtype in SIZES else 0
            nbytes = self.source.tensors[name].nbytes if name in self.source.tensors else nbytes
            entries[name] = {
                "dtype": dtype,
                "shape": list(shape),
                "data_offsets": [self.bytes_after, self.bytes_after + nbytes],
            }
            self._at[name] = self.bytes_after, nbytes
            self.bytes_after += nbytes
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._at = {name: (start + 8 + len(text), nbytes) for name, (start, nbytes) in self._at.items()}
        return struct.pack("<Q", len(text)) + text

    def _sweep(self) -> None:
        """Remove unfinished folders of this name whose writers are gone."""
        for path in self.out.parent.glob(f".{glob.escape(self.out.name)}.*{UNFINISHED}"):
            with suppress(OSError), (path / SINGLE).open("rb") as file:  # OSError: somebody writes it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)

    def _drop(self) -> None:
        self._close()
        shutil.rmtree(self._made, ignore_errors=True)

    def _close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what the system refuses into one line."""
        try:
            yield
        except OSError as error:
            raise ModelError(f"{self.out}: cannot be written: {error.strerror or error}") from None


SIZES = {"I32": 4, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a number of the types that codes are stored as


def declared(source: Source, grids: Mapping[str, Grid | None]) -> dict[str, Declared]:
    """Type and shape of every tensor of the quantized folder, in the order of the source."""
    out: dict[str, Declared] = {}
    for name, tensor in source.tensors.items():
        grid = grids.get(name)
        if grid is None:
            out[name] = tensor.dtype, tensor.shape
        else:
            out |= coded_shapes(name, tensor.shape, grid, tensor.dtype)
    return out
