"""What is asked of a server, and when: lengths, counts, arrivals and limits, checked before anything is sent.

Names of settings are those of the flags. Knows no prompt and no connection.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from octavo.core.errors import InvalidValue

WARMUPS = 32  # at most, where nobody says how many
LIMITED = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Workload:
    """One load, or one for each point of `sweep`. Lengths in tokens, rates in requests a second, times in ms.

    request_rate inf: all arrive at the start. max_concurrency None: no limit. `goodput`: limits by metric, in ms.
    Raises InvalidValue, naming the field, for what cannot be.
    """

    dataset_name: str = "random"
    dataset_path: str | None = None
    input_len: int = 256
    output_len: int = 64
    range_ratio: float = 0.0
    prompt_form: str = "auto"
    vocab_size: int = 10000
    prefix_len: int = 256
    num_prefixes: int = 10
    num_prompts: int = 100
    num_warmups: int | None = None
    request_rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: int | None = None
    sweep: str | None = None
    trace: str | None = None
    seed: int = 0
    goodput: str | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("input_len", "output_len", "prefix_len", "num_prefixes", "num_prompts", "repeats"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of 1 or more")
        if self.max_concurrency is not None:
            _check("max_concurrency", self.max_concurrency, self.max_concurrency >= 1, "an integer of 1 or more")
        if self.num_warmups is not None:
            _check("num_warmups", self.num_warmups, self.num_warmups >= 0, "an integer of 0 or more")
        _check("vocab_size", self.vocab_size, self.vocab_size >= 10, "an integer of 10 or more")
        _check("seed", self.seed, self.seed >= 0, "an integer of 0 or more")
        _check("range_ratio", self.range_ratio, 0 <= self.range_ratio < 1, "from 0 to below 1")
        _check("request_rate", self.request_rate, self.request_rate > 0, "above 0")
        _check("burstiness", self.burstiness, self.burstiness > 0, "above 0")
        if self.dataset_name == "text":
            _check("dataset_path", self.dataset_path, bool(self.dataset_path), "a file, for --dataset-name text")
        else:
            _check("dataset_path", self.dataset_path, not self.dataset_path, "read with --dataset-name text only")
        if self.trace:
            _check("dataset_name", self.dataset_name, self.dataset_name == "random", "random, with --trace")
        self.points()
        self.limits()

    def points(self) -> list[Workload]:
        """The loads of the sweep, in its order; this one alone where there is none."""
        if self.sweep is None:
            return [self]
        what, _, values = self.sweep.partition(":")
        accepted = "concurrency: or rate: and numbers above 0, such as concurrency:1,8,32"
        try:
            if what == "concurrency":
                return [replace(self, sweep=None, max_concurrency=int(value)) for value in values.split(",")]
            if what == "rate":
                return [replace(self, sweep=None, request_rate=float(value)) for value in values.split(",")]
        except (ValueError, InvalidValue):
            pass
        raise InvalidValue("sweep", self.sweep, accepted)

    def limits(self) -> dict[str, float]:
        """Limits of a good answer in ms, by metric."""
        found = {}
        for part in self.goodput.split(",") if self.goodput else []:
            name, _, value = part.partition(":")
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = -1.0
            if name not in LIMITED or not found[name] > 0:
                accepted = "names and ms, such as ttft:2000,tpot:100; of " + ", ".join(LIMITED)
                raise InvalidValue("goodput", self.goodput, accepted)
        return found

    @property
    def warmups(self) -> int:
        """Requests that go first."""
        return min(self.max_concurrency or WARMUPS, WARMUPS) if self.num_warmups is None else self.num_warmups

    @property
    def name(self) -> str:
        """The load in words."""
        parts = []
        if self.trace:
            parts.append(f"trace {self.trace}")
        if math.isfinite(self.request_rate):
            kinds = {1.0: "Poisson", math.inf: "constant"}
            arrivals = "" if self.trace else f", {kinds.get(self.burstiness, f'burstiness {self.burstiness:g}')}"
            parts.append(f"{self.request_rate:g} requests/s{arrivals}")
        if self.max_concurrency is not None or not parts:
            parts.append(f"concurrency {self.max_concurrency or self.num_prompts}")
        return ", ".join(parts)

    @property
    def axis(self) -> tuple[str, float]:
        """What a sweep varies, with its unit, and this load's value."""
        if math.isfinite(self.request_rate):
            return "request rate, requests/s", self.request_rate
        return "concurrency, requests in flight at most", float(self.max_concurrency or self.num_prompts)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it: infinity is null there, hence a word."""
        return {name: "inf" if value == math.inf else value for name, value in asdict(self).items()}


def _check(field: str, value: Any, holds: bool, accepted: str) -> None:
    if not holds:
        raise InvalidValue(field, value, accepted)
