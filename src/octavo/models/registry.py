"""Which architectures there are, and which one a checkpoint is of."""

from __future__ import annotations

import difflib
import re

from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.models.arch import (
    baichuan,
    bert,
    bloom,
    cohere,
    deepseek,
    falcon,
    gemma,
    glm,
    glm_moe,
    gpt2,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    internlm2,
    lfm2,
    llama,
    minicpm,
    mistral,
    mixtral,
    modernbert,
    mpt,
    olmo,
    olmoe,
    opt,
    phi,
    phi3,
    qwen,
    qwen_moe,
    smollm3,
    stablelm,
    starcoder2,
)
from octavo.models.gguf_settings import gguf_settings
from octavo.models.names import Architecture
from octavo.models.pooler import CLASSIFIER, with_pooler
from octavo.models.settings import config_settings
from octavo.models.spec import ModelSpec

ARCHITECTURES = (
    llama.ARCHITECTURE,
    mistral.ARCHITECTURE,
    mixtral.ARCHITECTURE,
    qwen.QWEN2,
    qwen.QWEN3,
    qwen_moe.QWEN2_MOE,
    qwen_moe.QWEN3_MOE,
    gemma.GEMMA,
    gemma.GEMMA2,
    gemma.GEMMA3,
    phi.ARCHITECTURE,
    phi3.ARCHITECTURE,
    gpt2.ARCHITECTURE,
    gptj.ARCHITECTURE,
    gpt_neox.ARCHITECTURE,
    gpt_oss.ARCHITECTURE,
    opt.ARCHITECTURE,
    bloom.ARCHITECTURE,
    mpt.ARCHITECTURE,
    falcon.ARCHITECTURE,
    starcoder2.ARCHITECTURE,
    stablelm.ARCHITECTURE,
    olmo.OLMO,
    olmo.OLMO2,
    olmo.OLMO3,
    olmoe.ARCHITECTURE,
    granite.GRANITE,
    granite.GRANITE_MOE,
    cohere.COHERE,
    cohere.COHERE2,
    glm.GLM,
    glm.GLM4,
    glm_moe.ARCHITECTURE,
    deepseek.V2,
    deepseek.V3,
    minicpm.ARCHITECTURE,
    internlm2.ARCHITECTURE,
    baichuan.ARCHITECTURE,
    smollm3.ARCHITECTURE,
    lfm2.LFM2,
    lfm2.LFM2_MOE,
    bert.BERT,
    bert.ROBERTA,
    modernbert.ARCHITECTURE,
)


def read_spec(source: Source, runner: str = "auto") -> ModelSpec:
    """The model that a checkpoint declares. runner: what it shall do, see models/pooler.py.

    Raises ModelError, naming the field at fault, and InvalidValue for a runner that is not its.
    """
    architecture, name = _found(source)
    if source.kind == "gguf":
        settings = gguf_settings(source, name, architecture.words, architecture.more)
    else:
        settings = config_settings(source)
    return with_pooler(architecture.spec(settings), source, architecture, name, settings, runner)


def architecture_of(source: Source) -> Architecture:
    """By general.architecture of a GGUF file or architectures of config.json. Raises ModelError for any other."""
    return _found(source)[0]


def _found(source: Source) -> tuple[Architecture, str]:
    """The architecture, and the name by which it was found."""
    field = "general.architecture" if source.kind == "gguf" else "architectures"
    found = source.metadata.get(field) if source.kind == "gguf" else source.config.get(field)
    named = [found] if source.kind == "gguf" else found
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise ModelError(f"{source.path}: {field} is missing or not a name, such as {known(source.kind)[0]}")
    for name in named:
        for other in [name] if source.kind == "gguf" else _relatives(name):
            for architecture in ARCHITECTURES:
                if other in _names(architecture, source.kind):
                    return architecture, name
    shown = ", ".join(named)[:100]
    raise ModelError(f"{source.path}: {field}: {shown!r} is not supported; {_nearest(named[0], source.kind)}")


def _relatives(name: str) -> list[str]:
    """Names under which an architecture may be declared that `name` has without its head, or with one for labels."""
    family = next((name.removesuffix(end) for end in (CLASSIFIER, "Model") if name.endswith(end)), "")
    return [name, *(family + end for end in ("ForCausalLM", "LMHeadModel", "Model") if family)]


def known(kind: str) -> list[str]:
    """Every name of an architecture in this kind of source."""
    return [name for architecture in ARCHITECTURES for name in _names(architecture, kind)]


def _names(architecture: Architecture, kind: str) -> tuple[str, ...]:
    return architecture.gguf if kind == "gguf" else architecture.names


def _nearest(name: str, kind: str) -> str:
    """What there is instead of an unknown name, and what it would take."""
    if name.lower() in {other.lower() for other in known("gguf" if kind != "gguf" else "safetensors")}:
        return "known, but not in this kind of file"
    near = difflib.get_close_matches(name, known(kind), 3, 0.5) or known(kind)[:3]
    family = re.sub(r"(For\w+|LMHeadModel|Model)$", "", name)
    heads = [other for other in known(kind) if family and other.startswith(family) and other != name]
    if heads and kind != "gguf":
        return f"of this family there is {', '.join(heads)}, and the head of {name[:100]!r} is missing"
    return f"the nearest of {len(known(kind))} known are {', '.join(near)}; models/arch has no file that declares it"
