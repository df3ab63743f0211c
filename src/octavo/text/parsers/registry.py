"""Which parser reads which model: by name, or by the marks in its chat template.

Names are those of vLLM's --tool-call-parser and --reasoning-parser. The first row all of whose marks stand in the
template is chosen. Imports a family when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.text.parsers.calls import Family
    from octavo.text.parsers.harmony import Harmony
    from octavo.text.parsers.thinking import Thought


@dataclass(frozen=True, slots=True)
class Row:
    """One name. module, value: where it is kept; marks: what a template that wants it holds."""

    name: str
    module: str
    value: str = "FAMILY"
    marks: tuple[str, ...] = ()


TOOLS = (
    Row("openai", "harmony", marks=("<|channel|>", "<|message|>")),
    Row("mistral", "mistral", marks=("[TOOL_CALLS]",)),
    Row("deepseek_v3", "deepseek", marks=("<｜tool▁calls▁begin｜>",)),
    Row("deepseek_v31", "deepseek"),
    Row("functiongemma", "gemma", marks=("<start_function_call>",)),
    Row("gemma4", "gemma", marks=("<|tool_call>",)),
    Row("phi4_mini_json", "phi", marks=("<|/tool|>",)),
    Row("granite", "granite", marks=("<|tool_call|>",)),
    Row("granite-20b-fc", "granite"),
    Row("lfm2", "pythonic", marks=("<|tool_call_start|>",)),
    Row("qwen3_coder", "qwen_coder", marks=("<function=",)),
    Row("hermes", "hermes", marks=("<tool_call>",)),
    Row("llama3_json", "llama", marks=('"parameters": dictionary',)),
    Row("llama4_pythonic", "pythonic", marks=("<|python_start|>",)),
    Row("pythonic", "pythonic"),
)
REASONING = (
    Row("openai_gptoss", "harmony", "HARMONY", ("<|channel|>", "<|message|>")),
    Row("granite", "thinking", "GRANITE", ("Here is my thought process:",)),
    Row("mistral", "thinking", "MISTRAL", ("[THINK]",)),
    Row("gemma4", "thinking", "GEMMA", ("<|channel>",)),
    Row("qwen3", "thinking", "THINK", ("</think>",)),
    Row("deepseek_r1", "thinking", "THINK"),
)


def names(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """What a flag takes."""
    return ("auto", "none", *(row.name for row in rows))


def chosen(rows: tuple[Row, ...], name: str, template: str | None) -> str | None:
    """The name that `name` stands for: itself, or with auto what the template asks for; None for none."""
    if name != "auto":
        return None if name == "none" else name
    fits = (row for row in rows if row.marks and all(mark in (template or "") for mark in row.marks))
    return next((row.name for row in fits), None)


def family(name: str) -> Family:
    """The tool parser of this name."""
    found: Family = _value(TOOLS, name)
    return found


def thought(name: str) -> Thought | Harmony:
    """The reasoning parser of this name."""
    found: Thought | Harmony = _value(REASONING, name)
    return found


def _value(rows: tuple[Row, ...], name: str) -> Any:
    row = next(row for row in rows if row.name == name)
    return getattr(import_module(f"octavo.text.parsers.{row.module}"), row.value)
