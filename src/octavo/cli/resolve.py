"""From the command line to a model on disk and to what starts an engine. Environment and flags meet here."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from octavo.checkpoint import hub
from octavo.checkpoint.source import Source
from octavo.cli import environment, flags
from octavo.cli.progress import Progress
from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue, ModelError
from octavo.engine.config import LaunchConfig


def cache_dir(args: argparse.Namespace) -> Path:
    """Where fetched models are kept."""
    return environment.cache_dir(os.environ, args.cache_dir)


def packed_dir(cache: Path) -> Path:
    """Where packed weights are kept."""
    return cache / "packed"


def path(args: argparse.Namespace) -> Path:
    """The model on disk, fetched first where needed, with progress on standard error. Raises ModelError."""
    progress = Progress(sys.stderr)
    try:
        return hub.resolve(
            args.model,
            cache_dir=cache_dir(args),
            revision=args.revision,
            token=environment.token(os.environ, args.hf_token),
            progress=progress.bytes,
        )
    finally:
        progress.close()


def isa(name: str | None = None) -> str:
    """The instruction set that the native kernels use: `name`, or the default. Raises ModelError or InvalidValue."""
    try:
        from octavo.kernels import native

        chosen = name or native.isa()
    except ValueError as error:
        raise InvalidValue("OCTAVO_ISA", os.environ.get("OCTAVO_ISA"), str(error)) from None
    except (ImportError, OSError) as error:
        raise ModelError(
            f"the native kernels do not load: {error}; --executor reference is slow but always there"
        ) from None
    if chosen not in native.isas():
        raise InvalidValue("isa", chosen, f"this processor runs {', '.join(native.isas())}")
    return chosen


def launch(args: argparse.Namespace, model: Path, *, sequences: int | None = None) -> LaunchConfig:
    """What starts an engine on `model`, from the flags. Raises InvalidValue and ModelError.

    sequences: how many run at once, where no flag says so; the memory for keys and values is that of so many.
    """
    if args.command != "plan" and args.executor == "cpu":
        isa()
    return LaunchConfig(
        model=str(model),
        name=args.model,
        packed_dir=str(packed_dir(cache_dir(args))) if flags.section(args, "packing").get("kept") else None,
        scheduler=SchedulerConfig(**flags.section(args, "scheduler") | ({"max_seqs": sequences} if sequences else {})),
        cache=CacheConfig(**flags.section(args, "cache")),
        exec=ExecConfig(**flags.section(args, "exec")),
        **flags.section(args, "launch"),
    )


def licence(args: argparse.Namespace, source: Source) -> str | None:
    """The licence of the model that `path` found: as the alias, a cached repository or a GGUF file states; or None."""
    stated = hub.licence(args.model)
    if not stated:
        kept = {entry.path: entry.licence for entry in hub.list_models(cache_dir(args))}
        stated = kept.get(source.path) or source.metadata.get("general.license")
    return stated if isinstance(stated, str) and stated else None
