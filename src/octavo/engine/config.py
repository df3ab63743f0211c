"""What an engine is started with, as plain data: it crosses to the engine process. Loads nothing of the engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue

UNITS = {"": 1, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """Everything an engine is started with.

    model: path of a folder or a .gguf file. name: what it is called in statuses. max_len None: as long as model and
    memory allow; it is this field that counts, `scheduler.max_len` is replaced by it. packed_dir: folder that keeps
    packed weights for the next start, see models/packed.py; None: packed anew at each.
    """

    model: str
    name: str = ""
    max_len: int | None = None
    packed_dir: str | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    exec: ExecConfig = field(default_factory=ExecConfig)


def parse_bytes(text: str | int) -> int:
    """Bytes of "2GiB", "512 MiB", "1.5G" or a plain number. kB, MB, GB are powers of 1000; KiB and bare K of 1024."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)(b?)", str(text).strip().lower())
    value = 0
    if match is not None:
        number, unit, binary, byte = match.groups()
        thousand = bool(unit and byte and not binary)
        value = int(float(number) * (1000 ** (UNITS[unit] // 10) if thousand else 2 ** UNITS[unit] if unit else 1))
    if not 0 < value < 2**63:
        raise InvalidValue("memory", text, "a number of bytes such as 2GiB, 512MiB or 4096")
    return value
