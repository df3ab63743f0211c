"""Every flag of every command, once: name, kind, default, unit, help, and the field it sets.

argparse, the documents' check and the configuration all read this table, so they cannot disagree. A flag's `into` is
"section.field": `section("scheduler")` of the parsed arguments is what SchedulerConfig takes. Knows no engine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue
from octavo.server.config import ServerConfig

COMMANDS = {
    "serve": "serve a model over the OpenAI API",
    "chat": "talk to a model in the terminal",
    "generate": "continue a prompt",
    "pull": "fetch a model into the cache folder",
    "models": "list the models known by name and those in the cache folder",
    "plan": "say from the headers alone what memory serving a model takes, and what fits",
    "doctor": "say what this machine offers, and what to change",
}
POSITIONAL = {"serve": "[MODEL]", "chat": "[MODEL]", "generate": "PROMPT", "pull": "MODEL", "plan": "MODEL"}
DEFAULT_MODEL = "smollm2-135m"
TITLES = {  # of the parts of the help, by section
    "hub": "where the model comes from",
    "launch": "how it runs",
    "scheduler": "how it runs",
    "cache": "how it runs",
    "exec": "how it runs",
    "packing": "how it runs",
    "server": "the server",
    "sampling": "how tokens are drawn",
    "run": "besides",
}

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


_SIZING = "serve chat generate plan"
_SCHEDULER, _CACHE, _EXEC, _SERVER = SchedulerConfig(), CacheConfig(), ExecConfig(), ServerConfig(names=("model",))

# fmt: off
FLAGS = (
    # Where the model comes from.
    Flag("--cache-dir", str, None, "folder", "where fetched models are kept", "serve chat generate pull models plan",
         "hub.cache_dir", shown="$OCTAVO_CACHE, else $XDG_CACHE_HOME/octavo, else ~/.cache/octavo"),
    Flag("--revision", str, None, "branch, tag or commit", "version of a model from a hub",
         "serve chat generate pull plan", "hub.revision", shown="the newest"),
    Flag("--hf-token", str, None, "", "token for models of a hub that are not public",
         "serve chat generate pull plan", "hub.token", shown="$HF_TOKEN, else none"),
    # How it runs.
    Flag("--max-model-len", int, None, "tokens", "longest prompt and output together", _SIZING, "launch.max_len",
         shown="what the model was made for, or less where memory is short"),
    Flag("--max-num-seqs", int, _SCHEDULER.max_seqs, "sequences", "most sequences that run at once", "serve plan",
         "scheduler.max_seqs"),
    Flag("--max-num-batched-tokens", int, _SCHEDULER.max_step_tokens, "tokens", "most tokens computed in one step",
         _SIZING, "scheduler.max_step_tokens"),
    Flag("--max-queued", int, _SCHEDULER.max_queued, "requests", "most requests that wait; further ones are refused",
         "serve", "scheduler.max_queued"),
    Flag("--scheduling-policy", str, _SCHEDULER.policy, "",
         "who goes first: fcfs, who came first; priority, whose request gives the lowest number",
         "serve", "scheduler.policy", choices=("fcfs", "priority")),
    Flag("--memory", size, _CACHE.memory_bytes, "bytes", "most memory the engine takes, such as 2GiB", _SIZING,
         "cache.memory_bytes", shown="what the machine or its cgroup leaves, less a margin"),
    Flag("--kv-cache-dtype", str, _CACHE.kv_dtype, "", "how keys and values are stored", _SIZING, "cache.kv_dtype",
         choices=("bfloat16", "float32")),
    Flag("--enable-prefix-caching", switch, _CACHE.prefix_cache, "", "reuse keys and values of equal prompt beginnings",
         "serve chat generate", "cache.prefix_cache", aliases=("--prefix-cache",)),
    Flag("--dtype", str, _EXEC.dtype, "", "how unquantized weights are stored; auto is bfloat16", _SIZING, "exec.dtype",
         choices=("auto", "bfloat16", "float32")),
    Flag("--packed-cache", switch, True, "", "keep packed weights in the cache folder, for a quick start the next time",
         "serve chat generate", "packing.kept"),
    Flag("--threads", int, _EXEC.threads, "threads", "threads that compute", _SIZING, "exec.threads",
         shown="one for each core this process may use"),
    Flag("--executor", str, _EXEC.executor, "", "who computes: the native kernels, or the slow numpy definition",
         _SIZING, "exec.executor", choices=("cpu", "reference")),
    # The server.
    Flag("--host", str, _SERVER.host, "address", "where to listen; 0.0.0.0 for every network", "serve", "server.host"),
    Flag("--port", int, _SERVER.port, "", "where to listen; 0 takes a free port", "serve", "server.port"),
    Flag("--served-model-name", str, None, "", "the model's name in the API; may be given several times", "serve",
         "server.names", shown="MODEL as given", many=True),
    Flag("--api-key", str, None, "", "key that requests must bring; may be given several times", "serve",
         "server.api_keys", shown="none is asked for", many=True),
    Flag("--max-body-bytes", size, _SERVER.max_body_bytes, "bytes", "largest request body, such as 8MiB", "serve",
         "server.max_body_bytes"),
    Flag("--drain-seconds", float, _SERVER.drain_seconds, "seconds",
         "how long running requests may still take after SIGTERM or Ctrl-C", "serve", "server.drain_seconds"),
    Flag("--metrics-compat", str, _SERVER.metrics_compat, "", "whose names /metrics gives besides our own", "serve",
         "server.metrics_compat", choices=("none", "vllm")),
    # How tokens are drawn.
    Flag("--temperature", float, 0.7, "", "0 takes the likeliest token always", "generate chat",
         "sampling.temperature"),
    Flag("--top-p", float, 1.0, "share", "draw from the fewest tokens that reach this share", "generate chat",
         "sampling.top_p"),
    Flag("--top-k", int, 0, "tokens", "draw from this many likeliest tokens; 0: all", "generate chat",
         "sampling.top_k"),
    Flag("--min-p", float, 0.0, "share", "least share of a token, relative to the likeliest", "generate chat",
         "sampling.min_p"),
    Flag("--repetition-penalty", float, 1.0, "", "above 1 makes tokens that occurred less likely", "generate chat",
         "sampling.repetition_penalty"),
    Flag("--max-tokens", int, 512, "tokens", "longest answer", "generate chat", "sampling.max_tokens"),
    Flag("--seed", int, None, "", "makes the draw repeatable", "generate chat", "sampling.seed", shown="random"),
    Flag("--stop", str, None, "text", "end before this text; may be given several times", "generate", "sampling.stop",
         shown="none", many=True),
    Flag("--ignore-eos", switch, False, "", "go on after the model's end of text", "generate", "sampling.ignore_eos"),
    Flag("--logprobs", int, None, "alternatives", "report log-probabilities, with --json", "generate",
         "sampling.logprobs", shown="none"),
    Flag("--n", int, 1, "answers", "how many continuations", "generate", "sampling.n"),
    # What a command does besides.
    Flag("--model", str, DEFAULT_MODEL, "", "an alias, a folder, a .gguf file or a hub id", "generate", "run.model"),
    Flag("--system", str, None, "text", "what the model is told first", "chat", "run.system", shown="nothing"),
    Flag("--json", switch, False, "", "print one JSON object", "generate models plan doctor", "run.json"),
)
# fmt: on


def of(command: str) -> list[Flag]:
    """The flags of one command, in the table's order."""
    return [flag for flag in FLAGS if command in flag.commands.split()]


def section(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """What the flags of the command that ran set of one section, by field."""
    return {flag.field: getattr(args, flag.dest) for flag in of(args.command) if flag.section == name}


def named(field: str | None, command: str) -> str | None:
    """The flag of `command` that sets this field, so that an error names what was typed."""
    return next((flag.name for flag in of(command) if field in (flag.field, flag.dest)), None)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with this line and code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def parser(version: str) -> argparse.ArgumentParser:
    """The whole command line, made from the table."""
    top = _Parser(
        "octavo", description="An LLM serving engine for the CPU server everybody already has.", allow_abbrev=False
    )
    top.epilog = "`octavo serve` is all it takes to begin; `octavo COMMAND --help` lists a command's flags."
    top.add_argument("--version", action="version", version=f"octavo {version}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        usage = f"%(prog)s {POSITIONAL.get(name, '')} [FLAGS]".replace("  ", " ")
        one = commands.add_parser(name, help=summary, description=description, usage=usage, allow_abbrev=False)
        if POSITIONAL.get(name) == "[MODEL]":
            one.add_argument(
                "model",
                metavar="MODEL",
                nargs="?",
                default=DEFAULT_MODEL,
                help=f"an alias, a folder, a .gguf file or a hub id [default: {DEFAULT_MODEL}]",
            )
        elif POSITIONAL.get(name) == "MODEL":
            one.add_argument("model", metavar="MODEL", help="an alias, a folder, a .gguf file or a hub id")
        elif POSITIONAL.get(name) == "PROMPT":
            one.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
        parts: dict[str, argparse._ArgumentGroup] = {}
        for flag in of(name):
            title = TITLES[flag.section]
            if title not in parts:
                parts[title] = one.add_argument_group(title)
            _add(parts[title], flag)
        one.set_defaults(**{flag.dest: flag.default for flag in of(name)})
    return top


def _add(one: argparse._ArgumentGroup, flag: Flag) -> None:
    """Give a command one flag."""
    names, text = (flag.name, *flag.aliases), flag.described.replace("%", "%%")
    if flag.kind is switch and flag.default:
        one.add_argument(*names, dest=flag.dest, action=argparse.BooleanOptionalAction, help=text)
    elif flag.kind is switch:
        one.add_argument(*names, dest=flag.dest, action="store_true", help=text)
    else:
        metavar = "{" + ",".join(flag.choices) + "}" if flag.choices else flag.name.split("-")[-1].upper()
        one.add_argument(
            *names,
            dest=flag.dest,
            type=flag.parse,
            action="append" if flag.many else "store",
            metavar=metavar,
            help=text,
        )
