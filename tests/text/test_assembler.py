"""Outputs to text: however the tokens are cut into outputs, the deltas join to the same text, tokens and end."""

from __future__ import annotations

import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue
from octavo.core.plan import Output, TokenLogprob
from octavo.core.request import SamplingParams
from octavo.text.assemble import Assembler
from octavo.text.tokenizer import Tokenizer, load_tokenizer

EOS = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tiny_llama.write_folder(tmp_path_factory.mktemp("model") / "plain", tokenizer=True)
    found = load_tokenizer(open_source(path))
    assert found is not None
    return found


def outputs_of(tokens: list[int], cuts: list[int], finish: str) -> list[Output]:
    """The tokens in outputs of the sizes in `cuts`, then the rest; the last one has the end."""
    parts, start = [], 0
    for cut in cuts:
        parts.append(tokens[start : start + cut])
        start += cut
    parts.append(tokens[start:])
    logprobs = [[TokenLogprob(token, -0.5, 1) for token in part] for part in parts]
    outputs = [Output(id="a", tokens=part, logprobs=entries) for part, entries in zip(parts, logprobs, strict=True)]
    outputs[-1].finish = finish
    return outputs


def run(text: Assembler, outputs: list[Output]) -> tuple[str, list[int]]:
    """Text and tokens of the deltas, up to the end; the totals agree with them."""
    shown, tokens = "", []
    for output in outputs:
        delta = text.push(output)
        shown, tokens = shown + delta.text, tokens + delta.tokens
        assert (text.text, text.tokens) == (shown, tokens)
        assert len(delta.logprobs) == len(delta.tokens)
        if delta.finish is not None:
            break
    assert text.finish is not None
    assert text.cumulative_logprob == -0.5 * len(tokens)
    assert text.push(Output(id="a", tokens=[5], finish="abort")).tokens == []
    return shown, tokens


LETTERS = st.text(st.sampled_from("ab the é🙂"), max_size=30)
CUTS = st.lists(st.integers(0, 4), max_size=12)


@settings(max_examples=60, deadline=None)
@given(LETTERS, CUTS, st.lists(st.text(st.sampled_from("abé "), min_size=1, max_size=3), max_size=3), st.booleans())
def test_any_cut_gives_the_same_text_and_the_same_stop(tokenizer, text, cuts, stops, include):
    tokens = tokenizer.encode(text, special=False)
    sampling = SamplingParams(stop=stops, include_stop_str_in_output=include)
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    assembler = Assembler(tokenizer, sampling)
    shown, used = run(assembler, outputs_of(tokens, cuts, "length"))
    if not ends:
        assert (shown, used, assembler.finish, assembler.stopped) == (text, tokens, "length", False)
        return
    end, _, stop = min(ends)
    assert shown == text[: end if include else end - len(stop)]
    assert (assembler.finish, assembler.stop_reason) == ("stop", stop)
    assert used == tokens[: len(used)]
    assert text[:end] in tokenizer.decode(used)
    assert text[:end] not in tokenizer.decode(used[:-1])  # no token beyond the one that completed it
    assert assembler.stopped == (len(used) <= sum(cuts))  # not in the last output, so the engine goes on


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 270), max_size=20), CUTS)
def test_any_tokens_give_what_decoding_all_at_once_gives(tokenizer, tokens, cuts):
    for skip in (True, False):
        assembler = Assembler(tokenizer, SamplingParams(skip_special_tokens=skip))
        assert run(assembler, outputs_of(tokens, cuts, "length"))[0] == tokenizer.decode(tokens, skip_special=skip)


def test_the_token_that_ends_the_text_is_not_part_of_it(tokenizer):
    tokens = [*tokenizer.encode("in the", special=False), EOS]
    for keep, wanted in ((False, "in the"), (True, "in the<|im_end|>")):
        sampling = SamplingParams(skip_special_tokens=False, include_stop_str_in_output=keep)
        assembler = Assembler(tokenizer, sampling)
        assert run(assembler, outputs_of(tokens, [1, 1], "stop")) == (wanted, tokens)


def test_stop_strings_wait_for_min_tokens(tokenizer):
    tokens = tokenizer.encode("xxxxxx", special=False)
    assembler = Assembler(tokenizer, SamplingParams(stop="x", min_tokens=3))
    assert run(assembler, outputs_of(tokens, [1] * 6, "length")) == ("xxx", tokens[:4])
    assert assembler.stopped


def test_an_unfinished_character_ends_as_a_mark_and_may_complete_nothing(tokenizer):
    tokens = tokenizer.encode("aé", special=False)[:2]
    assembler = Assembler(tokenizer, SamplingParams(stop="b"))
    assert run(assembler, outputs_of(tokens, [1], "length"))[0] == "a\ufffd"


def test_text_held_for_a_stop_string_is_given_out_at_the_end(tokenizer):
    tokens = tokenizer.encode("ab", special=False)
    for finish in ("length", "abort", "error"):
        assembler = Assembler(tokenizer, SamplingParams(stop="abc"))
        assert run(assembler, outputs_of(tokens, [1, 1], finish))[0] == "ab"
        assert assembler.finish == finish


def test_a_prompt_that_ends_within_a_character_is_continued(tokenizer):
    whole = tokenizer.encode("é!", special=False)
    assembler = Assembler(tokenizer, SamplingParams(), whole[:1])
    assert run(assembler, outputs_of(whole[1:], [1], "length"))[0] == "é!"


def test_without_text(tokenizer):
    for assembler in (
        Assembler(None, SamplingParams()),
        Assembler(tokenizer, SamplingParams(detokenize=False)),
    ):
        assert run(assembler, outputs_of([70, 71], [1], "length")) == ("", [70, 71])
    with pytest.raises(InvalidValue, match="stop"):
        Assembler(None, SamplingParams(stop="a"))
    with pytest.raises(InvalidValue, match="detokenize"):
        Assembler(tokenizer, SamplingParams(stop="a", detokenize=False))


def test_an_error_is_passed_on(tokenizer):
    assembler = Assembler(tokenizer, SamplingParams())
    delta = assembler.push(Output(id="a", finish="error", error="the engine died"))
    assert (delta.finish, delta.error, assembler.error) == ("error", "the engine died", "the engine died")


def test_what_comes_with_the_first_output(tokenizer):
    assembler = Assembler(tokenizer, SamplingParams())
    assembler.push(Output(id="a", tokens=[70], prompt_logprobs=[TokenLogprob(5, -1.0, 2)], cached=32))
    assembler.push(Output(id="a", tokens=[71], finish="length"))
    assert [entry.token for entry in assembler.prompt_logprobs] == [5]
    assert assembler.cached == 32
