"""A folder of a quantized model as plain tensors: each quantized module becomes one tensor, the weight it stands for.

Which format a folder has is declared in config.json (`quantization_config`), or, by older tools, in a file of its own.
What is quantized is told by the tensors: a module that has none of the format's parts is left as it is. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo.checkpoint.safetensors import read_json
from octavo.checkpoint.source import Source
from octavo.checkpoint.tensor import Derived, Tensor, Tensors, shown
from octavo.core.errors import ModelError
from octavo.quant import awq, bitsandbytes, compressed, fp8, gptq, mxfp4
from octavo.quant.module import Declared, Module


@dataclass(frozen=True, slots=True)
class Shape:
    """How modules of a format look: the part that marks one, all its parts, and what makes the weight of it."""

    mark: str
    parts: tuple[str, ...]
    weight: Callable[[Module, Declared], Derived | None]


FP8 = Shape(fp8.MARK, fp8.PARTS, fp8.weight)
METHODS: Mapping[str, tuple[Shape, ...]] = {
    "gptq": (Shape(gptq.MARK, gptq.PARTS, gptq.weight),),
    "awq": (Shape(awq.MARK, awq.PARTS, awq.weight),),
    "compressed-tensors": (
        Shape(compressed.PACKED, compressed.PACKED_PARTS, compressed.packed_weight),
        Shape(".weight", compressed.PARTS, compressed.weight),
    ),
    "bitsandbytes": (Shape(bitsandbytes.MARK, bitsandbytes.PARTS, bitsandbytes.weight),),
    "fp8": (FP8,),
    "fbgemm_fp8": (FP8,),
    "modelopt": (FP8,),
    "mxfp4": (Shape(mxfp4.MARK, mxfp4.PARTS, mxfp4.weight),),
}
# Files of older tools, and how they spell what config.json now has.
FILES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "quantize_config.json": ("gptq", {}),
    "quant_config.json": ("awq", {"w_bit": "bits", "q_group_size": "group_size"}),
    "hf_quant_config.json": ("modelopt", {}),
}


def plain_tensors(source: Source) -> Tensors:
    """The tensors of a source, each weight whole. Raises ModelError for what cannot be read."""
    found = settings_of(source)
    if found is None:
        return source.tensors
    declared = Declared(*found)
    method: str = declared.one_of("quant_method", *METHODS)
    if method == "compressed-tensors":
        compressed.check(declared)
    out: dict[str, Tensor | Derived] = dict(source.tensors)
    for shape in METHODS[method]:
        for name in source.tensors:
            if name.endswith(shape.mark):
                _put(out, source.tensors, shape, name.removesuffix(shape.mark), declared)
    return out


def _put(out: dict[str, Tensor | Derived], stored: Tensors, shape: Shape, name: str, declared: Declared) -> None:
    """Put the weight of a module in the place of its parts."""
    parts = {part: stored[name + part] for part in shape.parts if name + part in stored}
    weight = shape.weight(Module(name, parts), declared)
    if weight is None:
        return
    for part in parts:
        out.pop(name + part, None)
    if weight.name in out:
        raise ModelError(f"{weight.file.path}: {shown(weight.name)} is stored both whole and quantized")
    out[weight.name] = weight


def settings_of(source: Source) -> tuple[str, Mapping[str, Any]] | None:
    """Where the quantization of a folder is declared, and what is; None where it has none. Raises ModelError."""
    if source.kind != "safetensors":
        return None
    values = source.config.get("quantization_config") or source.config.get("compression_config")
    where = f"{source.path / 'config.json'}: quantization_config"
    if values is not None and not isinstance(values, dict):
        raise ModelError(f"{where} is no object")
    if values:
        return where, {**values, "quant_method": _method(values)}
    for name, (method, words) in FILES.items():
        path = source.file(name)
        if path is not None:
            found = read_json(path)
            inner = found.get("quantization")
            found = inner if isinstance(inner, dict) else found
            renamed = {words.get(key, key): value for key, value in found.items()}
            return f"{path}: settings", {**renamed, "quant_method": renamed.get("quant_method") or method}
    return None


def _method(values: Mapping[str, Any]) -> Any:
    """What tools call the method."""
    loaded = values.get("load_in_8bit") or values.get("load_in_4bit")
    return values.get("quant_method") or values.get("method") or ("bitsandbytes" if loaded else None)
