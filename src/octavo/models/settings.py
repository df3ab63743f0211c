"""A model's settings, read with care: typed, bounded, and each error names the field as the file writes it.

The vocabulary is that of Hugging Face's config.json, whatever the file (gguf_settings.py translates). Knows no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.checkpoint.safetensors import read_json
from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError

SIZE = 2**31 - 1  # largest of any size


class Settings:
    """Values by name; null counts as absent. `written`: how the file itself spells a name, where it differs."""

    def __init__(
        self, path: Path, values: Mapping[str, Any], written: Mapping[str, str] | None = None, prefix: str = ""
    ) -> None:
        """`prefix`: what an error puts before a name, for objects within the file."""
        self._path = path
        self._values = values
        self._written = written or {}
        self._prefix = prefix

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
        spelled = self._written.get(name, self._prefix + name)
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

    def number(self, name: str, default: float | None = None, low: float | None = None) -> float:
        """A finite number above 0, or with `low` from there on."""
        value = self.value(name, default)
        fit = type(value) in (int, float) and -1e30 < value < 1e30 and (value > 0 if low is None else value >= low)
        if not fit:
            raise self.refused(name, "a number above 0" if low is None else f"a number from {low:g} on")
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

    def word(self, name: str, *accepted: str, default: str | None = None) -> str:
        """One of these words."""
        value = self.value(name, default)
        if value not in accepted or not isinstance(value, str):
            raise self.refused(name, ", ".join(accepted))
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers above 0; empty where there is none."""
        found = self.value(name, [])
        fit = isinstance(found, list) and all(type(each) in (int, float) and 0 < each < 1e30 for each in found)
        if not fit:
            raise self.refused(name, "numbers above 0")
        return tuple(map(float, found))

    def each(self, name: str, count: int, *kinds: Any) -> list[Any]:
        """A list of `count` values, each of these."""
        found = self.value(name)
        if not isinstance(found, list) or len(found) != count or any(each not in kinds for each in found):
            raise self.refused(name, f"a list of {count}, each {' or '.join(map(repr, kinds))}")
        return found

    def section(self, name: str) -> Settings:
        """The object under a name, itself as settings; empty where there is none."""
        values = self.value(name, {})
        if not isinstance(values, dict):
            raise self.refused(name, "an object")
        inside = f"{name}."
        written = {key.removeprefix(inside): as_ for key, as_ in self._written.items() if key.startswith(inside)}
        return Settings(self._path, values, written, self._prefix + inside)

    def names(self) -> tuple[str, ...]:
        """The fields that are there."""
        return tuple(name for name in self._values if self.has(name))

    def over(self, **changes: Any) -> Settings:
        """The same with some values given; None: absent."""
        return Settings(self._path, {**self._values, **changes}, self._written, self._prefix)


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
