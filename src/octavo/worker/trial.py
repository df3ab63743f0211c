"""Compiling with llguidance: within its own limits, and first in a process that ends where they do not end it in time.

llguidance counts most of its work, but of some JSON schemas it compares all pairs, or all combinations of patterns,
and nothing stops a thread that does. So a process of few tokens, which costs little, tries each grammar first: what it
outlives costs as much once more, here. Invariant: one call of `outlives` at a time. Knows no request.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# llguidance counts work in fuel, so a grammar is refused on every machine or on none; these take about a second.
INITIAL_FUEL = 10_000_000  # for what is built before the first token; 50 000 a millisecond
STEP_FUEL = 1_000_000  # for one token
STEP_ITEMS = 20_000  # of the parser for one token; schemas of SchemaStore need less than 5000
MAX_STATES = 20_000  # of the lexer of one sequence; half a kilobyte each

SECONDS = 2.0  # of a processor; the largest schemas of SchemaStore take a tenth
DATA_BYTES = 256 << 20  # of the process
SIZE_BYTES = 32 << 20  # of the process, but for what it tries
CODE = "import sys; sys.path[:] = sys.argv[1:]; from octavo.worker.trial import main; main()"


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at its start, or one that `is_error`."""
    import llguidance

    limits = llguidance.LLParserLimits(
        initial_lexer_fuel=INITIAL_FUEL,
        step_lexer_fuel=STEP_FUEL,
        step_max_items=STEP_ITEMS,
        max_lexer_states=MAX_STATES,
        verbose_errors=False,
    )
    return llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


class Trial:
    """The process, started when it is first needed. specials: names of special tokens by their ids, below `vocab`."""

    def __init__(self, specials: dict[int, str], vocab: int) -> None:
        self._words = json.dumps([list(specials.items()), vocab]).encode() + b"\n"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def outlives(self, grammar: str) -> bool:
        """Whether the grammar compiles, or is refused, within SECONDS and DATA_BYTES."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()  # somebody else ended it
            if self._process is None:
                self._process = _started()
                self._say(self._words)
            self._say(json.dumps(grammar).encode() + b"\n")
            assert self._process.stdout is not None
            if self._process.stdout.readline():
                return True
            self._end()
            return False

    def close(self) -> None:
        """End the process. May be called twice."""
        with self._lock:
            self._end()

    def _say(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: there will be no answer
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):  # of what it did not take
                process.stdin.close()


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is the front's alone
    )


class _Bytes:
    """As many tokens as the model has: its special ones, the 256 bytes, and for the rest nothing."""

    def __init__(self, specials: dict[int, str], vocab: int) -> None:
        self.eos_token_id = min(specials, default=vocab - 1)
        self.bos_token_id = None
        self.special_token_ids = sorted(specials)
        self.tokens = [specials.get(token, "").encode() for token in range(vocab)]
        plain = [token for token in range(vocab) if token not in specials]
        for token, byte in zip(plain, range(256)):  # noqa: B905 - a test's vocabulary may be smaller
            self.tokens[token] = bytes([byte])

    def __call__(self, text: Any) -> list[int]:
        """Token ids of a piece of text, which nobody asks for before there are tokens."""
        return []


def main() -> None:
    """The process: reads the tokens, then grammars, each of a line, and answers each with a line when it is done."""
    import llguidance

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    specials, vocab = json.loads(sys.stdin.buffer.readline())
    made = _Bytes(dict(specials), vocab)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(made), n_vocab=vocab, eos_token=[made.eos_token_id])
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of processor time; what it does is to end us
        compiled(tokenizer, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write("\n")
        sys.stdout.flush()
