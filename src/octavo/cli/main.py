"""The octavo command: reads the arguments, runs one command, turns errors into one line and an exit code.

Exit codes: 0 done; 1 our fault; 2 a wrong argument or a model that cannot be served; 130 interrupted. Imports nothing
of the engine: `octavo --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from octavo import __version__
from octavo.cli import environment, flags
from octavo.core.errors import EngineFault, InvalidValue, OctavoError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; argparse itself ends `--help` and wrong arguments with SystemExit."""
    command = ""
    try:
        args = flags.parser(__version__).parse_args(argv)
        command = args.command
        logging.basicConfig(level=environment.log_level(os.environ), format="%(levelname)s %(name)s: %(message)s")
        code: int = import_module(f"octavo.cli.{command.partition('.')[0]}").run(args)
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: nothing left to flush
        return 0
    except (OctavoError, MemoryError) as error:
        print(f"{' '.join(['octavo', *command.split('.')]).rstrip()}: {_line(error, command)}", file=sys.stderr)
        return 1 if isinstance(error, (EngineFault, MemoryError)) else 2


def _line(error: Exception, command: str) -> str:
    """The error in one line, naming the flag where a flag set the field."""
    text = str(error)
    if isinstance(error, InvalidValue) and (flag := flags.named(error.field, command)):
        text = f"{flag}: {error.value!r} is not accepted; {error.accepted}"
    return " ".join(text.split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
