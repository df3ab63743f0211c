"""A model's settings, read with care: typed, bounded, and each error names the field as the file writes it.

The vocabulary is that of Hugging Face's config.json, whatever the file (gguf_settings.py translates). Knows no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.checkpoint.safetensors import read_json
from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.models.spec import Rope

SIZE = 2**31 - 1  # largest of any size


class Settings:
    """Values by name; null counts as absent. `written`: how the file itself spells a name, where it differs."""

    def __init__(self, path: Path, values: Mapping[str, Any], written: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._values = values
        self._written = written or {}

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def given(self, name: str) -> bool:
        """Whether the field is there, even if null."""
        return name in self._values

    def value(self, name: str, default: Any = None) -> Any:
        """The field as it is."""
        found = self._values.get(name)
        return default if found is None else found

    def refused(self, name: str, accepted: str) -> ModelError:
        """The error for what this field holds, or that it is missing."""
        spelled = self._written.get(name, name)
        if not self.has(name):
            return ModelError(f"{self._path}: {spelled} is missing; expected {accepted}")
        shown = repr(self._values[name])
        shown = shown if len(shown) <= 100 else shown[:97] + "..."
        return ModelError(f"{self._path}: {spelled}: {shown} is not supported; expected {accepted}")

    def integer(self, name: str, default: int | None = None, low: int = 1, high: int = SIZE) -> int:
        """A whole number from `low` to `high`."""
        value = self.value(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self.refused(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.value(name, default)
        if type(value) not in (int, float) or not 0 < value < 1e30 or math.isnan(value):
            raise self.refused(name, "a number above 0")
        return float(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.value(name, default)
        if type(value) is not bool:
            raise self.refused(name, "true or false")
        return value

    def only(self, name: str, *accepted: Any) -> None:
        """A field that must hold one of these, or be absent."""
        if self.has(name) and self._values[name] not in accepted:
            raise self.refused(name, " or ".join(map(repr, accepted)) if accepted else "none")

    def ids(self, name: str, vocab: int) -> tuple[int, ...]:
        """Token ids: one, a list, or none."""
        value = self.value(name, [])
        ids = value if isinstance(value, list) else [value]
        if any(type(token) is not int or not 0 <= token < vocab for token in ids):
            raise self.refused(name, f"token ids from 0 to {vocab - 1}")
        return tuple(ids)

    def section(self, name: str) -> Settings:
        """The object under a name, itself as settings; empty where there is none."""
        values = self.value(name, {})
        if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
            raise self.refused(name, "an object of plain values, the same for all layers")
        return Settings(
            self._path, values, {key: self._written.get(f"{name}.{key}", f"{name}.{key}") for key in NESTED}
        )


NESTED = (
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "divisors",
)


def config_settings(source: Source) -> Settings:
    """The settings of a Hugging Face folder; end-of-text ids of generation_config.json come first."""
    values = dict(source.config)
    path = source.file("generation_config.json")
    if path is not None:
        values["generation_eos_token_id"] = read_json(path).get("eos_token_id")
    written = {"generation_eos_token_id": "eos_token_id (generation_config.json)"}
    return Settings(source.path / "config.json", values, written)


def end_ids(settings: Settings, vocab: int) -> tuple[int, ...]:
    """Every id that ends the text, in the order of the files, each once."""
    both = settings.ids("generation_eos_token_id", vocab) + settings.ids("eos_token_id", vocab)
    return tuple(dict.fromkeys(both))


def rope(settings: Settings) -> Rope:
    """Rotary positions, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    both = settings.has("rope_parameters") and settings.has("rope_scaling")
    if both and settings.value("rope_parameters") != settings.value("rope_scaling"):
        raise settings.refused("rope_scaling", "none beside rope_parameters, or the same")
    scaling = settings.section("rope_parameters" if settings.has("rope_parameters") else "rope_scaling")
    theta = scaling.number("rope_theta") if scaling.has("rope_theta") else settings.number("rope_theta", 10000.0)
    for place in (settings, scaling):
        place.only("partial_rotary_factor", 1, 1.0)
    field = "rope_type" if scaling.has("rope_type") else "type"
    divisors = _divisors(scaling)
    match scaling.value(field, "default"):
        case "default" | "none":
            return Rope(theta, divisors=divisors)
        case "linear":
            return Rope(theta, "linear", scaling.number("factor"), divisors=divisors)
        case "llama3":
            low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
            if low >= high:
                raise scaling.refused("low_freq_factor", f"less than high_freq_factor, which is {high}")
            original = scaling.integer("original_max_position_embeddings")
            return Rope(theta, "llama3", scaling.number("factor"), low, high, original)
        case _:
            raise scaling.refused(field, "default, linear or llama3")


def _divisors(scaling: Settings) -> tuple[float, ...]:
    """Llama 3's scaling in the form GGUF has it: a divisor for the frequency of each pair."""
    found = scaling.value("divisors", [])
    if not isinstance(found, list) or any(type(each) is not float or not 0 < each < 1e30 for each in found):
        raise scaling.refused("divisors", "numbers above 0")
    return tuple(found)
