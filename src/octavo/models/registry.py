"""Which architectures there are, and which one a checkpoint is of."""

from __future__ import annotations

from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.models.arch import gemma, gpt2, gpt_neox, llama, mistral, phi, phi3, qwen
from octavo.models.gguf_settings import gguf_settings
from octavo.models.names import Architecture
from octavo.models.settings import config_settings
from octavo.models.spec import ModelSpec

ARCHITECTURES = (
    llama.ARCHITECTURE,
    mistral.ARCHITECTURE,
    qwen.QWEN2,
    qwen.QWEN3,
    gemma.GEMMA,
    gemma.GEMMA2,
    gemma.GEMMA3,
    phi.ARCHITECTURE,
    phi3.ARCHITECTURE,
    gpt2.ARCHITECTURE,
    gpt_neox.ARCHITECTURE,
)


def read_spec(source: Source) -> ModelSpec:
    """The model that a checkpoint declares. Raises ModelError, naming the field at fault."""
    architecture = architecture_of(source)
    if source.kind == "gguf":
        return architecture.spec(gguf_settings(source, source.metadata["general.architecture"]))
    return architecture.spec(config_settings(source))


def architecture_of(source: Source) -> Architecture:
    """By general.architecture of a GGUF file or architectures of config.json. Raises ModelError for any other."""
    field = "general.architecture" if source.kind == "gguf" else "architectures"
    found = source.metadata.get(field) if source.kind == "gguf" else source.config.get(field)
    named = [found] if source.kind == "gguf" else found
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise ModelError(f"{source.path}: {field} is missing or not a name; supported: {_supported(source.kind)}")
    for architecture in ARCHITECTURES:
        known = architecture.gguf if source.kind == "gguf" else architecture.names
        if any(name in known for name in named):
            return architecture
    shown = ", ".join(named)[:100]
    raise ModelError(f"{source.path}: {field}: {shown!r} is not supported; supported: {_supported(source.kind)}")


def _supported(kind: str) -> str:
    names = [a.gguf if kind == "gguf" else a.names for a in ARCHITECTURES]
    return ", ".join(name for group in names for name in group)
