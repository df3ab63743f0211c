"""Tiny files of torch.save, of both kinds, with what torch itself reads from them.

usage: make_pickled_fixtures.py OUT    (committed as tests/data/pickled)

Each NAME.bin has a NAME.safetensors of the same tensors, contiguous. zip and legacy: every type of number that models
have, parameters, a table that is stored once and named twice, a transposed matrix, and a slice of a larger storage.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file


def tensors() -> OrderedDict[str, torch.Tensor]:
    """What the files hold."""
    random = torch.Generator().manual_seed(0)
    table = torch.randn(6, 4, generator=random)
    out = OrderedDict[str, torch.Tensor]()
    out["embed.weight"] = table
    out["head.weight"] = table
    out["half"] = torch.randn(3, 5, generator=random).half()
    out["brain"] = torch.randn(7, generator=random).bfloat16()
    out["wide"] = torch.randn(2, 2, generator=random).double()
    out["transposed"] = torch.randn(4, 3, generator=random).t()
    out["slice"] = torch.randn(5, 6, generator=random)[1:4, 2:5]
    out["rows"] = torch.randn(5, 6, generator=random)[2:]
    out["one"] = torch.tensor(2.5)
    out["none"] = torch.zeros(0, 3)
    out["parameter"] = torch.nn.Parameter(torch.randn(2, 3, generator=random))
    for name in ("int64", "int32", "int16", "int8", "uint8", "bool"):
        out[name] = torch.arange(5).to(getattr(torch, name))
    return out


def main(out: str) -> None:
    """Write the files."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    made = tensors()
    state = torch.nn.Linear(3, 2).state_dict()  # a dictionary with attributes
    state.update(made)
    del state["weight"], state["bias"]
    plain = {name: value.detach().clone().contiguous() for name, value in made.items()}
    torch.save(state, folder / "zip.bin")
    torch.save(state, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    floats8 = {"float8": torch.linspace(-4, 4, 6).to(torch.float8_e4m3fn).reshape(2, 3)}
    torch.save(floats8, folder / "float8.bin")
    save_file(floats8, folder / "float8.safetensors")
    for name in ("zip", "legacy"):
        save_file(plain, folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
