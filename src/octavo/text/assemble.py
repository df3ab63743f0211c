"""From the engine's outputs to text: detokenizing, stop strings and the end, for one request.

Owns the text of one completion. The invariant: the `text` of all deltas, joined, is the completion's text, and nothing
follows the delta that has `finish` set. Used by the HTTP server (each delta is a chunk) and by `LLM` (which reads the
totals). Does not know of chat, of the wire, or of the engine: who pushes aborts the sequence when `stopped` turns true.

    text = Assembler(tokenizer, request.sampling, request.prompt)
    async for output in client.generate(request):
        delta = text.push(output)
        ...                                   # send delta.text, delta.tokens, delta.logprobs
        if delta.finish is not None:          # a stop string may end the text before the engine ends the sequence:
            break                             # leaving the generator aborts it there
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo.core.errors import InvalidValue
from octavo.core.plan import Output, TokenLogprob
from octavo.core.request import SamplingParams
from octavo.text.detok import Detokenizer
from octavo.text.stop import StopMatcher
from octavo.text.tokenizer import Tokenizer


class Delta(msgspec.Struct, frozen=True):
    """What one output adds to a completion.

    `text` may be empty although there are tokens: a character is unfinished, or a stop string may be beginning.
    `finish` as in `Output`; `stop_reason` is the stop string or stop token that ended the text, or None.
    """

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob]
    finish: str | None = None
    stop_reason: int | str | None = None
    error: str | None = None


class Assembler:
    """Text and totals of one completion. Without a tokenizer (or with `detokenize` off) the text stays empty.

    prompt: the tokens the completion continues, so that a space or a character that begins in it is not lost. kept:
    special tokens that stay in the text. Raises InvalidValue for `stop` where there is no text to search. Not
    thread-safe.

    Totals so far: `text`, `tokens`, `logprobs`, `prompt_logprobs`, `cumulative_logprob`, `cached` (prompt tokens found
    in the prefix cache), `finish`, `stop_reason`, `error`. `stopped`: a stop string was found while the engine still
    generates, so the sequence should be aborted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        sampling: SamplingParams,
        prompt: Sequence[int] = (),
        kept: frozenset[int] = frozenset(),
    ) -> None:
        stops = sampling.stop_strings
        if stops and tokenizer is None:
            raise InvalidValue("stop", sampling.stop, "this model has no tokenizer; use stop_token_ids")
        if stops and not sampling.detokenize:
            raise InvalidValue("stop", sampling.stop, "stop strings need detokenize=True")
        self._detok: Detokenizer | None = None
        if tokenizer is not None and sampling.detokenize:
            skip = sampling.skip_special_tokens
            self._detok = Detokenizer(tokenizer, skip_special=skip, prompt=prompt, kept=kept)
        self._stop = StopMatcher(stops, include=sampling.include_stop_str_in_output) if stops else None
        self._keep_stop_token = sampling.include_stop_str_in_output
        self._min_tokens = sampling.min_tokens
        self._parts: list[str] = []
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.cumulative_logprob = 0.0
        self.cached = 0
        self.finish: str | None = None
        self.stop_reason: int | str | None = None
        self.error: str | None = None
        self.stopped = False
        self._found: str | None = None

    @property
    def text(self) -> str:
        """All text so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def push(self, output: Output) -> Delta:
        """Take the next output of the request; what comes after the end is ignored."""
        if self.finish is not None:
            return Delta("", [], [])
        if output.prompt_logprobs:
            self.prompt_logprobs.extend(output.prompt_logprobs)
        self.cached = max(self.cached, output.cached)
        # the token that ends a text is not part of it, as in vLLM
        ends = output.finish == "stop" and not output.whole and not self._keep_stop_token
        spelled = output.tokens[:-1] if ends else output.tokens
        if self._stop is None:
            text = self._detok.push(spelled) if self._detok is not None else ""
            return self._take(output, len(output.tokens), text)
        parts: list[str] = []
        for token in spelled:
            parts.append(self._text_of(token, len(self.tokens) + len(parts) + 1))
            if self._found is not None:
                return self._take(output, len(parts), "".join(parts))
        return self._take(output, len(output.tokens), "".join(parts))

    def _text_of(self, token: int, count: int) -> str:
        """Safe new text after the completion's `count`-th token; sets `_found` when a stop string is complete."""
        assert self._detok is not None
        text = self._detok.push([token])
        return text if count <= self._min_tokens else self._matched(text)

    def _matched(self, text: str) -> str:
        assert self._stop is not None
        safe, found = self._stop.push(text)
        if found is not None:
            self._found = found
        return safe

    def _take(self, output: Output, taken: int, text: str) -> Delta:
        """Add the first `taken` tokens of the output and their text to the totals."""
        if self._found is None and output.finish is not None:
            text += self._tail(output.finish)
            self.finish, self.stop_reason, self.error = output.finish, output.stop_reason, output.error
        if self._found is not None:
            self.finish, self.stop_reason, self.error = "stop", self._found, None
            self.stopped = output.finish is None
        tokens, logprobs = output.tokens[:taken], output.logprobs[:taken]
        self._parts.append(text)
        self.tokens.extend(tokens)
        self.logprobs.extend(logprobs)
        for entry in logprobs:
            self.cumulative_logprob += entry.logprob
        return Delta(text, tokens, logprobs, self.finish, self.stop_reason, self.error)

    def _tail(self, finish: str) -> str:
        """What the detokenizer and the matcher still hold when the engine has ended the sequence."""
        text = self._detok.finish() if self._detok is not None else ""
        if self._stop is None:
            return text
        if finish in ("stop", "length", "repetition"):  # a character that only now is whole may complete a stop string
            text = self._matched(text)
        return text if self._found is not None else text + self._stop.flush()
