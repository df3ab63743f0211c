"""One flag of a command: its name, what it takes, what it is for, and the field it sets. Knows no command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo.core.errors import InvalidValue

Parse = Callable[[str], Any]  # raises ValueError or InvalidValue


def size(text: str) -> int:
    """Bytes of "2GiB", "512 MiB", "2GB" or "4096". Raises InvalidValue."""
    from octavo.engine.config import parse_bytes  # late: `octavo --help` loads no engine

    return parse_bytes(text)


def switch(text: str) -> bool:
    """Never called: a switch takes no value."""
    raise ValueError(text)


ACCEPTED: dict[Parse, str] = {int: "an integer", float: "a number", size: "bytes, such as 2GiB or 512MiB"}


@dataclass(frozen=True, slots=True)
class Flag:
    """One row. `kind` turns text into a value; a switch has --no-NAME too. `shown` is the default in words."""

    name: str
    kind: Parse
    default: Any
    unit: str
    help: str
    commands: str
    into: str
    choices: tuple[str, ...] = ()
    shown: str = ""
    aliases: tuple[str, ...] = ()
    many: bool = False

    @property
    def dest(self) -> str:
        """The attribute of the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def section(self) -> str:
        """The configuration it belongs to."""
        return self.into.split(".")[0]

    @property
    def field(self) -> str:
        """What it sets there."""
        return self.into.split(".")[1]

    @property
    def described(self) -> str:
        """Help with unit and default."""
        default = self.shown or ("on" if self.default is True else "off" if self.default is False else self.default)
        return f"{self.help} [{self.unit + '; ' if self.unit else ''}default: {default}]"

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises InvalidValue, naming the flag."""
        try:
            value = self.kind(text)
        except (ValueError, InvalidValue):
            raise InvalidValue(self.name, text, ACCEPTED[self.kind]) from None
        if self.choices and value not in self.choices:
            raise InvalidValue(self.name, text, "one of " + ", ".join(self.choices))
        return value
