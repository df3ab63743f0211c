"""The table of flags against the command line it makes, and the values it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from octavo import __version__
from octavo.cli import flags
from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue
from octavo.core.request import SamplingParams


def octavo(*args: str, columns: int = 1000) -> subprocess.CompletedProcess[str]:
    """The command as a process."""
    env = os.environ | {"COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, "-m", "octavo", *args], capture_output=True, text=True, env=env, timeout=60, check=False
    )


@pytest.mark.parametrize("command", flags.COMMANDS)
def test_help_lists_each_flag_once_with_its_unit_and_default(command):
    said = octavo(command, "--help")
    assert said.returncode == 0 and said.stderr == ""
    options = re.sub(r"^(?! ).*\n", "", said.stdout.partition("options:\n")[2], flags=re.MULTILINE)  # without titles
    rows = [" ".join(block.split()) for block in re.split(r"^  (?=-)", options, flags=re.MULTILINE) if block.strip()]
    assert rows.pop(0).startswith("-h, --help")
    assert len(rows) == len(flags.of(command))
    for row, flag in zip(rows, flags.of(command), strict=True):
        assert row.split()[0].rstrip(",") == flag.name
        assert row.endswith(flag.described) and "default: " in row and flag.unit in row
        assert "default: None" not in row, "a default of None wants words"


def test_every_row_is_used_and_unique():
    assert len({flag.name for flag in flags.FLAGS}) == len(flags.FLAGS)
    for flag in flags.FLAGS:
        assert set(flag.commands.split()) <= set(flags.COMMANDS), flag.name
        assert flag.default is not None or flag.shown, f"{flag.name}: what happens by default?"
    for command in flags.COMMANDS:
        targets = [flag.into for flag in flags.of(command)]
        assert len(set(targets)) == len(targets), f"two flags of {command} set one field"


def test_sections_are_the_fields_of_the_configuration():
    """What the parsed arguments hold goes into the frozen values as it is."""
    args = flags.parser("0").parse_args(
        ["serve", "folder", "--max-num-seqs", "3", "--memory", "1.5GiB", "--no-prefix-cache", "--executor", "reference"]
    )
    assert SchedulerConfig(**flags.section(args, "scheduler")) == SchedulerConfig(max_seqs=3)
    assert CacheConfig(**flags.section(args, "cache")) == CacheConfig(memory_bytes=3 * 2**29, prefix_cache=False)
    assert ExecConfig(**flags.section(args, "exec")) == ExecConfig(executor="reference")
    args = flags.parser("0").parse_args(["generate", "hello", "--stop", "a", "--stop", "b", "--temperature", "0"])
    wanted = SamplingParams(temperature=0, max_tokens=512, stop=["a", "b"])
    assert SamplingParams(**flags.section(args, "sampling")) == wanted


@pytest.mark.parametrize("spelling", ["--enable-prefix-caching", "--prefix-cache"])
def test_prefix_cache_has_both_spellings(spelling):
    parse = flags.parser("0").parse_args
    assert parse(["serve", spelling]).enable_prefix_caching is True
    assert (
        parse(
            ["serve", spelling.replace("--enable", "--no-enable").replace("--prefix", "--no-prefix")]
        ).enable_prefix_caching
        is False
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["serve", "--port", "x"], "--port: 'x' is not accepted; an integer"),
        (["serve", "--memory", "lots"], "--memory: 'lots' is not accepted; bytes, such as 2GiB or 512MiB"),
        (["serve", "--dtype", "int3"], "--dtype: 'int3' is not accepted; one of auto, bfloat16, float32"),
        (["generate", "x", "--temperature", "hot"], "--temperature: 'hot' is not accepted; a number"),
        (["serve", "--max-num-s", "3"], "unrecognized arguments: --max-num-s"),
        (["sing"], "invalid choice: 'sing'"),
        (["generate"], "required: PROMPT"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(args, said):
    done = octavo(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("octavo") and said in done.stderr


def test_version_and_help_load_no_engine():
    code = "import sys; from octavo.cli.main import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    code += (
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('numpy', 'starlette', 'uvicorn', 'tokenizers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"octavo {__version__}\n[]\n"


def test_parse_names_the_flag():
    with pytest.raises(InvalidValue, match=r"^--threads: '1\.5' is not accepted; an integer$"):
        next(flag for flag in flags.FLAGS if flag.name == "--threads").parse("1.5")
