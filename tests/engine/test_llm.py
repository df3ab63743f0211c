"""`LLM` as a script uses it: prompts in every form, results in vLLM's shapes, equal to what the engine gives."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import tiny_llama
import tool_chat
from msgspec import structs

from octavo import LLM, SamplingParams
from octavo.core.errors import InvalidValue, ModelError, Unavailable, UserError
from octavo.engine.llm import LLM as SameLLM

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C counts, even where the tests run in the background and were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def made(path, **settings) -> LLM:
    return LLM(path, **{"memory": "128MiB", "threads": 1, "max_num_seqs": 8, "max_num_batched_tokens": 64, **settings})


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "text": tiny_llama.write_folder(folder / "text", tokenizer=True),
        "ids": tiny_llama.write_folder(folder / "ids"),
    }


@pytest.fixture(scope="module")
def llm(paths):
    with made(paths["text"]) as llm:
        yield llm


def test_every_form_of_prompt_means_the_same(llm):
    assert LLM is SameLLM
    ids = llm.tokenizer.encode("the other")
    wanted = llm.generate("the other", GREEDY, use_tqdm=False)[0]
    assert (wanted.prompt, wanted.prompt_token_ids, wanted.finished) == ("the other", ids, True)
    assert len(wanted.outputs[0].token_ids) == 12
    assert wanted.outputs[0].text == llm.tokenizer.decode(wanted.outputs[0].token_ids)
    forms = [ids, tuple(ids), {"prompt": "the other"}, {"prompt_token_ids": ids}, ["the other"], [ids]]
    for form in forms:
        (got,) = llm.generate(form, GREEDY, use_tqdm=False)
        assert got.outputs[0].token_ids == wanted.outputs[0].token_ids
        assert got.prompt_token_ids == ids
    assert llm.generate([], GREEDY, use_tqdm=False) == []


def test_results_come_in_the_order_of_prompts_each_with_its_own_parameters(llm, capsys):
    prompts = [f"{word} the" for word in ("at", "on", "in", "or", "re", "he", "er", "ing", "ll", "en", "a", "w")]
    params = [SamplingParams(temperature=0.0, max_tokens=1 + i, ignore_eos=True) for i in range(len(prompts))]
    together = llm.generate(prompts, params)
    assert "tok/s" in capsys.readouterr().err
    assert [result.prompt for result in together] == prompts
    assert [len(result.outputs[0].token_ids) for result in together] == list(range(1, 13))
    assert len({result.request_id for result in together}) == 12
    for prompt, one, result in zip(prompts, params, together, strict=True):
        assert llm.generate(prompt, one, use_tqdm=False)[0].outputs[0].token_ids == result.outputs[0].token_ids


def test_logprobs_in_vllms_shape(llm):
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=5, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    (result,) = llm.generate("the other", params, use_tqdm=False)
    (output,) = result.outputs
    assert len(output.logprobs) == 5
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert entry[token].decoded_token == llm.tokenizer.token_text(token)
        assert len(entry) in (2, 3)
        best = min(entry.values(), key=lambda each: each.rank)
        assert (best.rank, best.logprob) == (1, max(each.logprob for each in entry.values()))
    total = sum(entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True))
    assert output.cumulative_logprob == pytest.approx(total)
    assert result.prompt_logprobs[0] is None
    rest = zip(result.prompt_token_ids[1:], result.prompt_logprobs[1:], strict=True)
    assert all(token in entry for token, entry in rest)
    plain = llm.generate("the other", GREEDY, use_tqdm=False)[0]
    assert (plain.prompt_logprobs, plain.outputs[0].logprobs, plain.outputs[0].cumulative_logprob) == (None,) * 3


def test_logprobs_of_named_tokens_are_those_of_all(llm):
    named = [40, 3, 7, 301]
    sampling = {"max_tokens": 3, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    prompts = ["the other", "a", "in the"]
    few, likely = SamplingParams(**sampling, logprob_token_ids=named), SamplingParams(**sampling, logprobs=2)
    answers = llm.generate(prompts, [few, likely, few], use_tqdm=False)
    for answer in answers[::2]:
        tokens = answer.outputs[0].token_ids
        for place, entry in enumerate(answer.outputs[0].logprobs):
            assert set(entry) == {*named, tokens[place]}
            for other in named:
                forced = SamplingParams(max_tokens=1, allowed_token_ids=[other], logprobs=0)
                (alone,) = llm.generate([answer.prompt_token_ids + tokens[:place]], forced, use_tqdm=False)
                assert alone.outputs[0].logprobs[0][other].logprob == entry[other].logprob
    assert len(answers[1].outputs[0].logprobs[0]) in (2, 3)


def test_several_completions_with_seeds_that_follow_each_other(llm):
    params = SamplingParams(n=3, seed=10, max_tokens=8, ignore_eos=True)
    (result,) = llm.generate("the", params, use_tqdm=False)
    assert [output.index for output in result.outputs] == [0, 1, 2]
    assert len({tuple(output.token_ids) for output in result.outputs}) == 3
    for i, output in enumerate(result.outputs):
        one = SamplingParams(seed=10 + i, max_tokens=8, ignore_eos=True)
        assert llm.generate("the", one, use_tqdm=False)[0].outputs[0].token_ids == output.token_ids


def test_draws_without_a_seed_follow_the_models(paths):
    found = []
    for seed, given in ((5, None), (5, -1), (None, -1), (None, None)):
        params = SamplingParams(max_tokens=8, ignore_eos=True, seed=given)
        with made(paths["text"], seed=seed) as llm:
            found.append([r.outputs[0].token_ids for r in llm.generate(["the", "the"], params, use_tqdm=False)])
    assert found[0] == found[1] != found[2] != found[3]
    assert found[0][0] != found[0][1]


def test_a_stop_string_ends_the_text_and_the_sequence(llm):
    drawn = {"seed": 4, "max_tokens": 30, "ignore_eos": True}
    text = llm.generate("the other", SamplingParams(**drawn), use_tqdm=False)[0].outputs[0].text
    stop = text[3:5]
    (output,) = llm.generate("the other", SamplingParams(**drawn, stop=[stop]), use_tqdm=False)[0].outputs
    assert output.text == text[: text.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    assert len(output.token_ids) < 30
    assert not llm._engine.has_work


def test_chat_shows_tools_and_earlier_calls(llm):
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "time", "arguments": '{"zone": "CET"}'}}
    conversation = [*tool_chat.MESSAGES, {"role": "assistant", "content": "", "tool_calls": [call]}]
    asked = {"tools": tool_chat.TOOLS, "chat_template": tool_chat.TEMPLATE}
    (result,) = llm.chat(conversation, GREEDY, use_tqdm=False, **asked)
    assert result.prompt.startswith("[weather][time]<|im_start|>user")
    assert '<tool_call>{"name": "time", "arguments": {"zone": "CET"}}</tool_call>' in result.prompt


def test_chat_tells_tools_and_calls_to_a_template_that_knows_none(llm):
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "time", "arguments": '{"zone": "CET"}'}}
    conversation = [*tool_chat.MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    fields = {"tools": tool_chat.TOOLS, "chat_template": "{{ messages[0].content[:40] }}"}
    (result,) = llm.chat(tool_chat.MESSAGES, GREEDY, use_tqdm=False, **fields)
    assert result.prompt.startswith("# Tools")
    (result,) = llm.chat(conversation, GREEDY, use_tqdm=False)
    said = '<tool_call>\n{"name": "time", "arguments": {"zone": "CET"}}\n</tool_call>'
    assert result.prompt.endswith(f"<|im_start|>assistant\n{said}<|im_end|>\n<|im_start|>assistant\n")


def test_chat_renders_the_template_and_asks_for_an_answer(llm):
    conversation = [{"role": "user", "content": "the other"}]
    text = "<|im_start|>user\nthe other<|im_end|>\n<|im_start|>assistant\n"
    (result,) = llm.chat(conversation, GREEDY, use_tqdm=False)
    assert result.prompt == text
    assert result.prompt_token_ids == llm.tokenizer.encode(text, special=False)
    two = llm.chat([conversation, conversation], GREEDY, use_tqdm=False, add_generation_prompt=False)
    assert [each.prompt for each in two] == ["<|im_start|>user\nthe other<|im_end|>\n"] * 2
    own = llm.chat(
        conversation,
        GREEDY,
        use_tqdm=False,
        chat_template="{{ messages[0].content }}{{ x }}",
        chat_template_kwargs={"x": 1},
    )
    assert own[0].prompt == "the other1"


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (["the", [5, 320]], "prompts[1]: prompt[1]: 320"),
        (["the", ""], "prompts[1]: prompt"),
        ([{"text": "a"}], "prompts[0]"),
        (["the", [5, "a"]], "prompts[1]"),
        (["the", 7.5], "prompts[1]"),
        ([[5] * 600], "prompts[0]: prompt: '600 tokens'"),
        (7.5, "prompts: 7.5"),
    ],
)
def test_a_prompt_that_is_refused_is_named_and_nothing_runs(llm, prompts, words):
    steps = llm._engine.stats().steps
    with pytest.raises(InvalidValue) as refused:
        llm.generate(prompts, GREEDY, use_tqdm=False)
    assert words in str(refused.value)
    assert llm._engine.stats().steps == steps
    assert not llm._engine.has_work


def test_parameters_that_do_not_fit(llm):
    with pytest.raises(InvalidValue, match="stop"):
        SamplingParams(stop=5)
    with pytest.raises(InvalidValue, match="sampling_params"):
        llm.generate(["a", "b"], [GREEDY], use_tqdm=False)
    with pytest.raises(InvalidValue, match=r"prompts\[0\]: logit_bias"):
        llm.generate("a", SamplingParams(logit_bias={1000: 1.0}), use_tqdm=False)


def test_a_folder_without_tokenizer_runs_on_token_ids(paths):
    with made(paths["ids"], executor="reference") as llm:
        (result,) = llm.generate([5, 6, 7], SamplingParams(temperature=0.0, max_tokens=3, logprobs=1), use_tqdm=False)
        assert (result.prompt, result.outputs[0].text) == (None, "")
        assert len(result.outputs[0].token_ids) == 3
        assert result.outputs[0].logprobs[0][result.outputs[0].token_ids[0]].decoded_token is None
        for call in (
            lambda: llm.generate("text", use_tqdm=False),
            lambda: llm.generate([5], SamplingParams(stop="x"), use_tqdm=False),
            lambda: llm.chat([{"role": "user", "content": "x"}], use_tqdm=False),
        ):
            with pytest.raises(UserError, match="no tokenizer"):
                call()


def test_an_interrupt_waits_for_the_step_and_leaves_the_engine_usable(llm):
    step, count = llm._engine.step, 0

    def interrupting():
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    llm._engine.step = interrupting
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.generate("the", GREEDY, use_tqdm=False)
    finally:
        llm._engine.step = step
    assert count == 3
    llm._engine.check()
    assert len(llm.generate("the", GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == 12


def test_calls_from_several_threads_take_turns(llm):
    wanted = llm.generate("the", GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    found: list[list[int]] = []

    def call() -> None:
        found.append(llm.generate("the", GREEDY, use_tqdm=False)[0].outputs[0].token_ids)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


def test_a_closed_or_broken_llm_says_so(paths):
    llm = made(paths["ids"])
    llm.close()
    llm.close()
    with pytest.raises(Unavailable, match="closed"):
        llm.generate([5], use_tqdm=False)
    broken = made(paths["ids"])

    def fault(plan):
        raise RuntimeError("no such kernel")

    broken._engine._worker.run = fault
    with pytest.raises(RuntimeError):
        broken.generate([5], use_tqdm=False)
    with pytest.raises(Unavailable, match="no such kernel"):
        broken.generate([5], use_tqdm=False)


def test_settings_that_cannot_be_met(paths, tmp_path):
    for settings, word in (
        ({"max_model_len": 513}, "max_len"),
        ({"memory": "10MiB"}, "memory"),
        ({"memory": "lots"}, "memory"),
        ({"kv_cache_dtype": "fp8"}, "kv_dtype"),
        ({"dtype": "int3"}, "dtype"),
        ({"max_num_seqs": 0}, "max_seqs"),
    ):
        with pytest.raises(InvalidValue, match=word):
            made(paths["ids"], **settings)
    with pytest.raises(ModelError):
        made(tmp_path / "nothing")


def test_what_is_forbidden_is_not_generated_and_the_next_request_does_not_notice(llm):
    def generated(prompt="the other", **fields):
        params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, **fields)
        return llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].token_ids

    plain = generated()
    allowed = [5, 9, 77]
    assert set(generated(allowed_token_ids=allowed)) <= set(allowed)
    assert generated() == plain
    a, b = (llm.tokenizer.encode(text, special=False) for text in "ab")
    assert generated(allowed_token_ids=a + b, bad_words=["a"]) == b * 12
    assert generated([3, 4, 5, 6], truncate_prompt_tokens=2) == generated([5, 6])
    with pytest.raises(InvalidValue, match="allowed_token_ids"):
        generated(allowed_token_ids=[10**6])
    with pytest.raises(InvalidValue, match="bad_words"):
        generated(bad_words=[""])


def test_choices_compute_their_prompt_once_and_equal_separate_requests(llm):
    prompt = list(range(3, 103))
    sampling = SamplingParams(n=4, seed=11, max_tokens=9, ignore_eos=True, logprobs=1)
    before = llm._engine.stats().prefix_hits
    together = llm.generate([prompt], sampling, use_tqdm=False)[0].outputs
    hits = llm._engine.stats().prefix_hits - before
    assert hits == 3 * 99
    alone = [
        llm.generate([prompt[:]], structs.replace(sampling, n=1, seed=11 + choice), use_tqdm=False)[0].outputs[0]
        for choice in range(4)
    ]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.logprobs for one in together] == [one.logprobs for one in alone]
    assert len({tuple(one.token_ids) for one in together}) > 1
