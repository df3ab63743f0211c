"""`octavo chat`: a conversation in the terminal, or over a pipe.

Answers go to standard output, everything else to standard error. Ctrl-C ends an answer, at the prompt the chat; what an
answer had said when it was ended stays in the conversation. Owns the list of messages.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from octavo.cli import flags, resolve
from octavo.cli.progress import Progress
from octavo.cli.session import Session
from octavo.core.errors import ModelError, UserError
from octavo.core.request import SamplingParams
from octavo.text.template import ChatTemplate
from octavo.text.tokenizer import Tokenizer

HELP = "/reset begins anew, /exit or Ctrl-D ends, Ctrl-C ends an answer"


def run(args: argparse.Namespace) -> int:
    """Load, then answer line by line."""
    sampling = SamplingParams(**flags.section(args, "sampling"))
    session = Session(resolve.launch(args, resolve.path(args), sequences=1), Progress(sys.stderr))
    try:
        if session.tokenizer is None or session.tokenizer.chat_template is None:
            raise ModelError(f"{args.model} has no chat template; use `octavo generate`")
        Chat(session, session.tokenizer, session.tokenizer.chat_template, sampling, args.system).talk()
        return 0
    finally:
        session.close()


class Chat:
    """One conversation. `messages` alternate between user and assistant, after an optional system message."""

    def __init__(
        self, session: Session, tokenizer: Tokenizer, template: str, sampling: SamplingParams, system: str | None
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._template = ChatTemplate.of(tokenizer, template)
        self._sampling = sampling
        self._opening = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._opening)

    def talk(self) -> None:
        """Read lines until the end of input or /exit."""
        info = self._session.info
        _say(f"{info.model}, up to {info.max_len} tokens. {HELP}.")
        for line in _lines():
            if line == "/exit":
                return
            if line == "/reset":
                self.messages = list(self._opening)
                _say("The conversation begins anew.")
            elif line.startswith("/"):
                _say(HELP)
            elif line:
                self._turn(line)

    def _turn(self, line: str) -> None:
        """Ask, print the answer as it comes, and remember both."""
        asked = [*self.messages, {"role": "user", "content": line}]
        try:
            prompt = self._tokenizer.encode(self._template.render(asked), special=False)
            answers = self._session.answer(prompt, self._sampling)
            with _interrupts() as pressed:
                for _, delta in answers:
                    print(delta.text, end="", flush=True)
                    if pressed:
                        break
        except UserError as error:  # most often: the conversation has grown longer than the model takes
            _say(f"{error}; /reset begins anew")
            return
        print(flush=True)
        self.messages = [*asked, {"role": "assistant", "content": answers.totals[0].text}]
        _say(f"[{answers.pace}]")


def _lines() -> Iterator[str]:
    """What is typed, with line editing and a prompt on a terminal; else the lines of standard input."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (gives `input` its editing and history)

        while True:
            try:
                yield input("> ").strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                return
    else:
        for line in sys.stdin:
            yield line.strip()


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Inside, Ctrl-C is noted in the list instead of raised: a step of the engine is never cut in two."""
    pressed: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _say(text: str) -> None:
    """To standard error, so that answers stay apart."""
    print(text, file=sys.stderr, flush=True)
