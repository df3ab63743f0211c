"""`octavo generate`: continue one prompt, streamed as text, or whole as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from octavo.cli import flags, resolve
from octavo.cli.progress import Progress
from octavo.cli.session import Answers, Session
from octavo.core.errors import InvalidValue
from octavo.core.request import SamplingParams
from octavo.text.assemble import Assembler
from octavo.text.tokenizer import Tokenizer


def run(args: argparse.Namespace) -> int:
    """Load, continue, print."""
    sampling = SamplingParams(**flags.section(args, "sampling"))
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    session = Session(resolve.launch(args, resolve.path(args), sequences=sampling.n), Progress(sys.stderr))
    try:
        ids = prompt_ids(session.tokenizer, prompt)
        answers = session.answer(ids, sampling)
        if args.json:
            _drain(answers)
            print(json.dumps({"model": args.model, "prompt": prompt, "prompt_token_ids": ids, **result(answers)}))
        elif sampling.n == 1:
            _stream(answers, session.tokenizer)
        else:
            _drain(answers)
            print("\n---\n".join(shown(total, session.tokenizer) for total in answers.totals))
        if not args.json and sys.stderr.isatty():
            print(f"[{answers.pace}]", file=sys.stderr)
        return 0
    finally:
        session.close()


def prompt_ids(tokenizer: Tokenizer | None, prompt: str) -> list[int]:
    """Token ids of the prompt; for a model without a tokenizer, the ids it lists."""
    if tokenizer is not None:
        return tokenizer.encode(prompt)
    try:
        return [int(word) for word in prompt.replace(",", " ").split()]
    except ValueError:
        raise InvalidValue("PROMPT", prompt, "token ids such as 1 2 3: this model has no tokenizer") from None


def shown(total: Assembler, tokenizer: Tokenizer | None) -> str:
    """An answer as text; token ids for a model without a tokenizer."""
    return total.text if tokenizer is not None else " ".join(map(str, total.tokens))


def result(answers: Answers) -> dict[str, Any]:
    """All there is to know of finished answers, as plain data."""
    return {
        "answers": [
            {
                "text": total.text,
                "token_ids": total.tokens,
                "finish_reason": total.finish,
                "stop_reason": total.stop_reason,
                "logprobs": [
                    {"token_id": entry.token, "logprob": entry.logprob, "rank": entry.rank, "top": entry.top}
                    for entry in total.logprobs
                ],
            }
            for total in answers.totals
        ],
        "seconds": {"first_token": answers.first - answers.began, "total": answers.ended - answers.began},
    }


def _drain(answers: Answers) -> None:
    """Run to the end."""
    for _ in answers:
        pass


def _stream(answers: Answers, tokenizer: Tokenizer | None) -> None:
    """Print as it comes; the prompt's continuation goes to standard output and nothing else does."""
    for _, delta in answers:
        text = delta.text if tokenizer is not None else "".join(f"{token} " for token in delta.tokens)
        print(text, end="", flush=True)
    print()
