"""Beam search against trying everything, and against a plain search on a model without a prefix cache."""

import itertools
import math

import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import LLM, BeamSearchParams, SamplingParams
from octavo.core.beam import search
from octavo.core.errors import InvalidValue

END = 2
SETTINGS = {"memory": "128MiB", "threads": 1, "max_num_seqs": 8, "max_num_batched_tokens": 64}


def logprobs(weights):
    total = math.log(sum(weights))
    return [math.log(weight) - total for weight in weights]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 99), min_size=3, max_size=3), min_size=9, max_size=9),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.booleans(),
)
def test_beams_wide_enough_find_what_trying_everything_finds(table, penalty, ignore_eos):
    def after(tokens):
        return logprobs(table[(tokens[-1] + 3 * len(tokens)) % 9])

    def score(text):
        total = sum(after([0, *text[:place]])[token] for place, token in enumerate(text))
        return total / (1 + len(text) - (not ignore_eos and text[-1] == END)) ** penalty

    texts = [
        text
        for length in (1, 2, 3)
        for text in itertools.product(range(3), repeat=length)
        if ignore_eos or END not in text[:-1]
        if length == 3 or (not ignore_eos and text[-1] == END)
    ]
    params = BeamSearchParams(beam_width=10, max_tokens=3, length_penalty=penalty, ignore_eos=ignore_eos)
    (beams,) = search([[0]], params, {END}, lambda asked: [dict(enumerate(after(tokens))) for tokens in asked])
    wanted = sorted(map(score, texts), reverse=True)[:10]
    assert [score(tuple(beam.tokens[1:])) for beam in beams] == pytest.approx(wanted)
    assert all((beam.finish_reason == "stop") == (not ignore_eos and beam.tokens[-1] == END) for beam in beams)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)


def plain(llm, prompt, width, length):
    """Beams of a model, one after the other: (tokens, log-probability), the best first; no end is looked for."""
    beams = [(list(prompt), 0.0)]
    for _ in range(length):
        grown = []
        for tokens, total in beams:
            one = SamplingParams(temperature=0, max_tokens=1, logprobs=2 * width)
            (output,) = llm.generate([tokens], one, use_tqdm=False)[0].outputs
            grown += [([*tokens, token], total + each.logprob) for token, each in output.logprobs[0].items()]
        beams = sorted(grown, key=lambda beam: -beam[1])[:width]
    return beams


def test_beams_of_a_model_are_those_of_a_plain_search(path):
    prompts = [list(range(5, 50)), [7, 8, 9]]
    with LLM(path, enable_prefix_caching=False, **SETTINGS) as llm:
        wanted = [plain(llm, prompt, 3, 5) for prompt in prompts]
    with LLM(path, **SETTINGS) as llm:
        got = llm.beam_search(prompts, BeamSearchParams(beam_width=3, max_tokens=5, ignore_eos=True))
        assert [[(beam.tokens, beam.cum_logprob) for beam in each.sequences] for each in got] == wanted
        assert got[0].sequences[0].text == llm.tokenizer.decode(wanted[0][0][0], skip_special=False)
        (again,) = llm.generate([prompts[0]], SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
        assert again.num_cached_tokens == 44  # all that need not be computed to draw from
        with pytest.raises(InvalidValue, match=r"prompts\[1\]"):
            llm.beam_search([[5], []], BeamSearchParams(beam_width=2, max_tokens=2))


@pytest.mark.parametrize("fields", [{"beam_width": 0}, {"beam_width": 11}, {"max_tokens": 0}, {"length_penalty": 1e9}])
def test_what_is_refused(fields):
    with pytest.raises(InvalidValue, match=next(iter(fields))):
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 2} | fields)
