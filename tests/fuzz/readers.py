"""Fuzzes one reader of checkpoints with atheris: `python tests/fuzz/readers.py READER [options of libFuzzer]`.

Whatever the bytes, they load, every tensor of them, or cost one ModelError of one line: no other exception, no hang, no
more memory than `-rss_limit_mb`. Not imported by any test; test_readers.py runs it.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["octavo.checkpoint"]):
    from octavo.checkpoint.gguf import read_gguf
    from octavo.checkpoint.pickled import read_pickle
    from octavo.checkpoint.safetensors import read_file
    from octavo.checkpoint.tensor import Mapped, Tensors
    from octavo.checkpoint.torchfile import read_torch
    from octavo.core.errors import ModelError


def load(tensors: Tensors) -> None:
    """Read every tensor."""
    for tensor in tensors.values():
        tensor.read()


def gguf(file: Mapped) -> None:
    metadata, tensors = read_gguf(file)
    dict(metadata)
    load(tensors)


def safetensors(file: Mapped) -> None:
    load(read_file(file))


def torch(file: Mapped) -> None:
    load(read_torch(file))


def pickle(file: Mapped) -> None:
    read_pickle(io.BytesIO(file.data[:]), "a pickle")


READERS: dict[str, Callable[[Mapped], None]] = {
    "gguf": gguf,
    "safetensors": safetensors,
    "torch": torch,
    "pickle": pickle,
}


def main() -> None:
    read = READERS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed"

        def once(data: bytes) -> None:
            path.write_bytes(data)
            file, said = Mapped(path), "nothing"
            try:
                read(file)
            except ModelError as error:
                said = str(error)
            finally:
                file.close()
            assert len(said.splitlines()) == 1, said

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
