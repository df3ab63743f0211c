"""Beam search of an API call: its choices are the best beams of its prompt, found by requests for one token each.

Invariant: leaving `best_beams` in any way leaves no request of it in the engine. The prefix cache shares the pages of
what beams have in common and keeps the begun page of each, so that a step computes one token of each beam.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from octavo.core.beam import BeamSearchParams, steps
from octavo.core.errors import EngineFault, InvalidValue
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.server.ends import check_end
from octavo.server.together import together

Generate = Callable[[Request], AsyncGenerator[Output, None]]
HEEDED = {"n", "max_tokens", "ignore_eos", "truncate_prompt_tokens", "skip_special_tokens", "detokenize"}
IDLE = {"temperature", "seed"}  # what has no part: beams are the likeliest, whatever they say


def params_of(sampling: SamplingParams, length_penalty: float, max_tokens: int) -> BeamSearchParams:
    """The search for `n` choices. Raises InvalidValue for what a beam search cannot heed."""
    for field in SamplingParams.__struct_fields__:
        value = getattr(sampling, field)
        if field not in HEEDED | IDLE and value != getattr(SamplingParams(), field):
            if isinstance(value, StructuredOutputsParams):
                field, value = value.where, "given"
            raise InvalidValue(field, value, "only without use_beam_search")
    if sampling.n > 10:
        raise InvalidValue("n", sampling.n, "at most 10 with use_beam_search")
    return BeamSearchParams(
        beam_width=sampling.n, max_tokens=max_tokens, ignore_eos=sampling.ignore_eos, length_penalty=length_penalty
    )


async def best_beams(generate: Generate, first: Request, params: BeamSearchParams) -> list[Output]:
    """The best continuations of a request's prompt, each as one output. Raises what the engine raises."""
    numbers, one = itertools.count(), params.one_token()

    async def likely(beam: list[int]) -> dict[int, float]:
        id = f"{first.id}-beam-{next(numbers)}"
        request = msgspec.structs.replace(first, id=id, prompt=beam, sampling=one, after="")
        async with aclosing(generate(request)) as outputs:
            async for output in outputs:
                check_end(output)
                if output.logprobs:
                    return dict(output.logprobs[0].top)
        raise EngineFault("the engine gave no token")

    asking = steps([first.prompt], params, frozenset(first.eos_ids))
    beams = next(asking)
    try:
        while True:
            beams = asking.send(await together([likely(beam) for beam in beams]))
    except StopIteration as end:
        (found,) = end.value
    start = len(first.prompt)
    return [Output(id=first.id, tokens=beam.tokens[start:], finish=beam.finish_reason) for beam in found]
