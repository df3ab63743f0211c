"""Octavo: an LLM serving engine for the CPU server everybody already has.

`LLM` and the parameters of its calls are loaded on first use, so that `import octavo` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "BeamSearchParams",
    "PoolingParams",
    "RepetitionDetectionParams",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]

if TYPE_CHECKING:
    from octavo.core.beam import BeamSearchParams
    from octavo.core.repetition import RepetitionDetectionParams
    from octavo.core.request import PoolingParams, SamplingParams
    from octavo.core.structured import StructuredOutputsParams
    from octavo.engine.llm import LLM


_PLACES = {
    "LLM": "octavo.engine.llm",
    "SamplingParams": "octavo.core.request",
    "StructuredOutputsParams": "octavo.core.structured",
    "PoolingParams": "octavo.core.request",
    "BeamSearchParams": "octavo.core.beam",
    "RepetitionDetectionParams": "octavo.core.repetition",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
