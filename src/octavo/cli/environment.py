"""What the environment says: the one place of the package, beside kernels/native.py, that reads it.

OCTAVO_CACHE      folder for fetched models; else $XDG_CACHE_HOME/octavo; else ~/.cache/octavo
HF_TOKEN          token for models of a hub that are not public
OPENAI_API_KEY    key that `octavo bench` brings to a server
OCTAVO_LOG        what is logged to standard error: debug, info, warning (default) or error
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from octavo.core.errors import InvalidValue

LEVELS = ("debug", "info", "warning", "error")


def cache_dir(environ: Mapping[str, str], given: str | None) -> Path:
    """Where fetched models are kept: the flag, or what the environment says."""
    if given:
        return Path(given).expanduser()
    if environ.get("OCTAVO_CACHE"):
        return Path(environ["OCTAVO_CACHE"]).expanduser()
    xdg = environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path("~/.cache").expanduser()) / "octavo"


def token(environ: Mapping[str, str], given: str | None) -> str | None:
    """The hub token: the flag, or HF_TOKEN."""
    return given or environ.get("HF_TOKEN") or None


def api_key(environ: Mapping[str, str], given: str | None) -> str | None:
    """The key that a server under load asks for: the flag, or OPENAI_API_KEY."""
    return given or environ.get("OPENAI_API_KEY") or None


def log_level(environ: Mapping[str, str]) -> str:
    """The level to log at, as `logging` names it. Raises InvalidValue."""
    level = environ.get("OCTAVO_LOG") or "warning"
    if level not in LEVELS:
        raise InvalidValue("OCTAVO_LOG", level, "one of " + ", ".join(LEVELS))
    return level.upper()
