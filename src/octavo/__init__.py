"""Octavo: an LLM serving engine for the CPU server everybody already has.

`LLM` and the parameters of its calls are loaded on first use, so that `import octavo` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "BeamSearchParams", "SamplingParams", "StructuredOutputsParams", "__version__"]

if TYPE_CHECKING:
    from octavo.core.request import SamplingParams, StructuredOutputsParams
    from octavo.engine.beam import BeamSearchParams
    from octavo.engine.llm import LLM


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from octavo.engine.llm import LLM

        return LLM
    if name == "SamplingParams":
        from octavo.core.request import SamplingParams

        return SamplingParams
    if name == "StructuredOutputsParams":
        from octavo.core.request import StructuredOutputsParams

        return StructuredOutputsParams
    if name == "BeamSearchParams":
        from octavo.engine.beam import BeamSearchParams

        return BeamSearchParams
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")
