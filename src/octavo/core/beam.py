"""Beam search by vLLM's rules: the likeliest continuations of a prompt, found a token at a time.

Invariant: every beam of a prompt has the same length, and each beam's score depends on its own tokens alone. Knows no
engine: whoever calls says how likely the next tokens are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from octavo.core.errors import InvalidValue
from octavo.core.request import MAX_LOGPROBS, SamplingParams

Likely = Callable[[list[list[int]]], Sequence[Mapping[int, float]]]  # log-probabilities of the likeliest next tokens


class BeamSearchParams(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's. A beam's score is its cumulative log-probability by its length, prompt included, to `length_penalty`.

    Raises InvalidValue: twice `beam_width` alternatives must be known of each token.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for field, most in (("beam_width", MAX_LOGPROBS // 2), ("max_tokens", 2**31 - 1)):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= most:
                raise InvalidValue(field, value, f"an integer from 1 to {most}")
        if type(self.length_penalty) not in (int, float) or not -100 <= self.length_penalty <= 100:
            raise InvalidValue("length_penalty", self.length_penalty, "a number from -100 to 100")

    def one_token(self) -> SamplingParams:
        """What each step asks of each beam."""
        return SamplingParams(temperature=0, max_tokens=1, logprobs=2 * self.beam_width, detokenize=False)


@dataclass(frozen=True, slots=True)
class BeamSearchSequence:
    """A beam: prompt and continuation together, as tokens and text. finish_reason: "stop" where it ends the text."""

    tokens: list[int]
    cum_logprob: float
    text: str | None = None
    finish_reason: str = "length"


@dataclass(frozen=True, slots=True)
class BeamSearchOutput:
    """The beams of one prompt, the best first."""

    sequences: list[BeamSearchSequence]


def search(
    prompts: Sequence[list[int]], params: BeamSearchParams, ends: Collection[int], likely: Likely
) -> list[list[BeamSearchSequence]]:
    """The best beams of each prompt, `beam_width` at most. `ends`: tokens that end a text."""
    asking = steps(prompts, params, ends)
    beams = next(asking)
    try:
        while True:
            beams = asking.send(likely(beams))
    except StopIteration as end:
        found: list[list[BeamSearchSequence]] = end.value
        return found


def steps(
    prompts: Sequence[list[int]], params: BeamSearchParams, ends: Collection[int]
) -> Generator[list[list[int]], Sequence[Mapping[int, float]], list[list[BeamSearchSequence]]]:
    """As `search`, for whoever waits for what is likely: gives the beams, and is told what is likely next."""
    live = [[BeamSearchSequence(prompt, 0.0)] for prompt in prompts]
    done: list[list[BeamSearchSequence]] = [[] for _ in prompts]

    def score(beam: BeamSearchSequence) -> float:
        length = len(beam.tokens) - (beam.finish_reason == "stop")  # the end itself does not count
        return float(beam.cum_logprob / length**params.length_penalty)

    for _ in range(params.max_tokens):
        nexts = iter((yield [beam.tokens for beams in live for beam in beams]))
        for number, beams in enumerate(live):
            grown = [
                BeamSearchSequence(
                    [*beam.tokens, token],
                    beam.cum_logprob + logprob,
                    finish_reason="stop" if token in ends and not params.ignore_eos else "length",
                )
                for beam in beams
                for token, logprob in next(nexts).items()
            ]
            done[number].extend(beam for beam in grown if beam.finish_reason == "stop")
            going = [beam for beam in grown if beam.finish_reason == "length"]
            live[number] = sorted(going, key=score, reverse=True)[: params.beam_width]
        if not any(live):
            break
    return [
        sorted(done[number] + beams, key=score, reverse=True)[: params.beam_width] for number, beams in enumerate(live)
    ]
