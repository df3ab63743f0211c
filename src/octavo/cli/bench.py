"""`octavo bench NAME`: gives octavo.bench.NAME what only the command line knows, and runs it.

That is: the environment's API key and instruction set, the model on disk, and the flags that a started server gets. A
module of octavo.bench has `run(args)`, as a command has; it finds these beside the parsed flags.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from octavo.cli import environment, flags, resolve


def run(args: argparse.Namespace) -> int:
    """Run one benchmark. Returns the exit code."""
    module = import_module(f"octavo.{args.command}")
    for section in ("target", "load", "sampling", "start", "step", "record"):
        setattr(args, section, flags.section(args, section))
    if args.target:
        args.target["api_key"] = environment.api_key(os.environ, args.api_key)
    if args.command in flags.PASSED_ON:
        args.passed_on = flags.passed_on(args)
        if not args.start["command"]:
            args.path = resolve.path(args)
    if args.command == "bench.offline":
        args.launch = resolve.launch(args, resolve.path(args))
    if args.command == "bench.kernels":
        args.step["isa"] = [resolve.isa(name) for name in args.step["isa"] or [None]]
    code: int = module.run(args)
    return code
