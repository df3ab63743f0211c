"""One tiny module in each quantized form, packed by the tools that people use, with the weights they unpack from it.

usage: make_quantized_fixtures.py OUT [FAMILY...]    (committed as tests/data/quantized)

Families and the tools that make them, each from the Python package index: compressed (compressed-tensors), mxfp4
(transformers unpacks what is drawn here), bitsandbytes (bitsandbytes, whose CPU library needs no GPU), gptq (auto-gptq
0.7.1) and awq (autoawq 0.2.9). The last two import a transformers that is long gone, so only the files that pack are
loaded, from wherever the package lies on the path. AutoAWQ has no CPU code that unpacks its GEMV packing: there the
expected weights are those that were given to it.

Each case becomes a folder: config.json, model.safetensors with the module "x", and expected.safetensors, its weights in
float32.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROWS, COLS = 64, 128
Case = tuple[str, dict[str, Any], dict[str, torch.Tensor], torch.Tensor]  # name, settings, parts, weights [rows, cols]


def drawn(rows: int = ROWS, cols: int = COLS) -> torch.Tensor:
    """Weights of ordinary size."""
    return torch.randn(rows, cols) * 0.05


def bare(package: str) -> None:
    """Let a package's files be imported without what its own __init__ imports."""
    names = package.split(".")
    if names[0] not in sys.modules:
        found = importlib.util.find_spec(names[0])
        assert found is not None and found.submodule_search_locations
        sys.modules[names[0]] = types.ModuleType(names[0])
        sys.modules[names[0]].__path__ = list(found.submodule_search_locations)
    root = Path(sys.modules[names[0]].__path__[0])
    for depth in range(2, len(names) + 1):
        module = types.ModuleType(".".join(names[:depth]))
        module.__path__ = [str(root.joinpath(*names[1:depth]))]
        sys.modules[module.__name__] = module


def grouped(weights: torch.Tensor, columns: torch.Tensor, bits: int, symmetric: bool) -> tuple[Any, Any]:
    """Scales and zeros of plain rounding to nearest, float16 and whole. [rows, groups]"""
    scales, zeros = [], []
    for group in range(int(columns.max()) + 1):
        part = weights[:, columns == group]
        low, high = part.min(1).values.clamp(max=0), part.max(1).values.clamp(min=0)
        if symmetric:
            scale = (torch.maximum(-low, high) * 2 / (2**bits - 1)).half().float()
            zero = torch.full_like(scale, 2 ** (bits - 1))
        else:
            scale = ((high - low) / (2**bits - 1)).half().float()
            zero = torch.round(-low / scale).clamp(1, 2**bits - 1)
        scales.append(scale)
        zeros.append(zero)
    return torch.stack(scales, 1), torch.stack(zeros, 1)


def rounded(weights: torch.Tensor, columns: torch.Tensor, scale: Any, zero: Any, bits: int) -> torch.Tensor:
    """The nearest numbers that the codes can tell."""
    s, z = scale[:, columns], zero[:, columns]
    return s * (torch.clamp(torch.round(weights / s) + z, 0, 2**bits - 1) - z)


def gptq() -> Iterator[Case]:
    """AutoGPTQ: packed by its QuantLinear, unpacked by what that makes of a unit matrix."""
    bare("auto_gptq.nn_modules.qlinear")
    from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear

    cases = [(bits, 32, symmetric, False) for bits in (2, 3, 4, 8) for symmetric in (True, False)]
    for bits, size, symmetric, ordered in [*cases, (4, -1, False, False), (4, 32, True, True), (4, 32, False, True)]:
        groups = COLS // size if size > 0 else 1
        columns = torch.arange(COLS) // (COLS // groups)
        columns = columns[torch.randperm(COLS)] if ordered else columns
        weights = drawn()
        scale, zero = grouped(weights, columns, bits, symmetric)
        linear = torch.nn.Linear(COLS, ROWS, bias=False)
        linear.weight.data = rounded(weights, columns, scale, zero, bits)
        module = QuantLinear(bits, size, COLS, ROWS, False, weight_dtype=torch.float32)
        module.pack(linear, scale, zero.clone(), columns.to(torch.int32))
        unpacked = module.float()(torch.eye(COLS)).T
        stored = {f".{name}": value for name, value in module.state_dict().items()}
        stored[".scales"] = stored[".scales"].half()
        settings = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": symmetric, "desc_act": ordered}
        name = f"gptq-{bits}-{'symmetric' if symmetric else 'zeros'}{'-ordered' if ordered else ''}"
        yield name + ("-whole" if size < 0 else ""), settings, stored, unpacked


def awq() -> Iterator[Case]:
    """AutoAWQ: both packings; the first is unpacked by its own code."""
    bare("awq.utils")
    bare("awq.modules.linear")
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.modules.linear.gemv import WQLinear_GEMV
    from awq.utils.packing_utils import dequantize_gemm

    for kind, form, size in (("gemm", WQLinear_GEMM, 32), ("gemv", WQLinear_GEMV, 64)):
        columns, weights = torch.arange(COLS) // size, drawn()
        scale, zero = grouped(weights, columns, 4, False)
        linear = torch.nn.Linear(COLS, ROWS, bias=False)
        linear.weight.data = rounded(weights, columns, scale, zero, 4)
        given = (scale.T.contiguous(), zero.T.contiguous()) if kind == "gemm" else (scale, zero)
        module = form.from_linear(linear, 4, size, scales=given[0].half(), zeros=given[1])
        stored = {f".{name}": value for name, value in module.state_dict().items()}
        unpacked = linear.weight.data
        if kind == "gemm":
            unpacked = dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, size).T
        settings = {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": kind}
        yield f"awq-{kind}", settings, stored, unpacked


def compressed() -> Iterator[Case]:
    """compressed-tensors: its compressors, and back."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    ints = [("pack-quantized", "group", 4, True), ("pack-quantized", "group", 4, False)]
    ints += [("pack-quantized", "channel", 8, True), ("pack-quantized", "channel", 8, False)]
    ints += [("int-quantized", "channel", 8, True)]
    floats = [("float-quantized", strategy, 8, True) for strategy in ("tensor", "channel", "block")]
    for form, strategy, bits, symmetric in ints + floats:
        kind = "float" if form == "float-quantized" else "int"
        options: dict[str, Any] = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric}
        options |= {"group_size": 32} if strategy == "group" else {}
        options |= {"block_structure": [32, 64]} if strategy == "block" else {}
        args = QuantizationArgs(**options)
        weights = drawn().half()
        blocks = {
            "group": lambda w: w.reshape(ROWS, -1, 32),
            "channel": lambda w: w[:, None],
            "tensor": lambda w: w.reshape(1, 1, -1),
            "block": lambda w: w.reshape(2, 32, 2, 64).transpose(1, 2).flatten(2),
        }[strategy](weights)
        scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
        if strategy == "tensor":
            scale, zero = scale.reshape(1), zero.reshape(1)
        state = {"weight": weights, "weight_scale": scale}
        state |= {} if symmetric else {"weight_zero_point": zero}
        scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
        compressor = BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, scheme)
        exact = {part: value.float() if value.dtype == torch.float16 else value for part, value in stored.items()}
        unpacked = compressor.decompress(exact, scheme)["weight"]
        told = json.loads(args.model_dump_json())
        settings = {
            "quant_method": "compressed-tensors",
            "format": form,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": told}},
        }
        name = f"{form}-{strategy}-{bits}{'' if symmetric else '-zeros'}"
        yield name, settings, {f".{part}": value for part, value in stored.items()}, unpacked


def bitsandbytes() -> Iterator[Case]:
    """bitsandbytes: as transformers saves what it quantizes."""
    from bitsandbytes import functional

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            weights = drawn(288, 64)  # 288 blocks: two of the nested ones
            packed, state = functional.quantize_4bit(
                weights, blocksize=64, compress_statistics=nested, quant_type=kind, quant_storage=torch.uint8
            )
            unpacked = functional.dequantize_4bit(packed, state)
            stored = {".weight": packed}
            stored |= {f".weight.{part}": value for part, value in state.as_dict(packed=True).items()}
            settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
            yield f"bitsandbytes-{kind}{'-nested' if nested else ''}", settings, stored, unpacked
    codes, largest, _ = functional.int8_vectorwise_quant(drawn().half())
    stored = {".weight": codes, ".SCB": largest, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    unpacked = functional.int8_vectorwise_dequant(codes, largest)
    yield "bitsandbytes-int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}, stored, unpacked


def mxfp4() -> Iterator[Case]:
    """gpt-oss: any codes at all, unpacked by transformers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (2, 32, 3, 16), dtype=torch.uint8)
    scales = torch.randint(115, 130, (2, 32, 3), dtype=torch.uint8)
    unpacked = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    stored = {"_blocks": blocks, "_scales": scales}
    yield "mxfp4", {"quant_method": "mxfp4"}, stored, unpacked.transpose(1, 2)


FAMILIES = {"gptq": gptq, "awq": awq, "compressed": compressed, "bitsandbytes": bitsandbytes, "mxfp4": mxfp4}


def main(out: str, *families: str) -> None:
    """Write the folders."""
    for family in families or FAMILIES:
        torch.manual_seed(0)
        for name, settings, stored, unpacked in FAMILIES[family]():
            folder = Path(out) / name
            folder.mkdir(parents=True, exist_ok=True)
            parts = {f"x{part}": value.detach().clone().contiguous() for part, value in stored.items()}
            save_file(parts, folder / "model.safetensors")
            save_file({"x": unpacked.detach().float().contiguous()}, folder / "expected.safetensors")
            (folder / "config.json").write_text(json.dumps({"quantization_config": settings}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
