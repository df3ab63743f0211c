"""Reasoning that is ended for the model: where, with what behind it, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import openai
import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until
from served_folder import served_folder
from tiny_engine import engine_of, gathered, program_of
from tool_chat import CHAT, MESSAGES, TEMPLATE, both

from octavo.checkpoint.source import open_source
from octavo.core.request import Request, SamplingParams
from octavo.server.budget import Budget, within
from octavo.text.detok import Detokenizer
from octavo.text.parsers.thinking import THINK
from octavo.text.tokenizer import load_tokenizer

CLOSING = "\n</think>\n\n"
OPENED = {
    "messages": [*MESSAGES, {"role": "assistant", "content": "<think>"}],
    "extra_body": {"add_generation_prompt": False, "continue_final_message": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)


@pytest.fixture(scope="module")
def tokenizer(folder):
    with open_source(folder) as source:
        made = load_tokenizer(source)
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def engine(tokenizer):
    def says(request):
        ended = tokenizer.decode(request.prompt, skip_special=False).endswith(CLOSING)
        return [*tokenizer.encode("Yes." if ended else "<think>abcdéfgh</think>No."), 2]

    return ScriptedEngine(says)


@pytest.fixture(scope="module")
def server(engine, tokenizer):
    with served(engine, lambda: tokenizer) as made:
        until(made.front.ready)
        yield made


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize(
    ("budget", "thought", "said"),
    [(0, "", "Yes."), (3, "abc", "Yes."), (5, "abcdé", "Yes."), (6, "abcdé", "Yes."), (20, "abcdéfgh", "No.")],
)
def test_reasoning_ends_at_its_budget(client, engine, budget, thought, said):
    assert both(client, extra_body={"thinking_token_budget": budget}) == (thought, said, [], "stop")
    assert not engine.live


def test_a_budget_of_nothing_where_the_template_opened_the_reasoning(client, engine):
    extra = OPENED["extra_body"] | {"thinking_token_budget": 0}
    before = len(engine.requests)
    assert both(client, **OPENED | {"extra_body": extra}) == ("", "Yes.", [], "stop")
    assert len(engine.requests) == before + 2  # whole and streamed, one each


@pytest.mark.parametrize(
    ("content", "budget", "answer"),
    [
        ("<think>", None, ("abcdéfgh", "No.")),
        ("<think>Let", None, (" abcdéfgh", "No.")),
        ("<think>Let me", 3, (" abc", "Yes.")),
        ("<think>Let me</think>So", None, ("", " abcdéfgh</think>No.")),
        ("So", 3, ("", " abcdéfgh</think>No.")),
    ],
)
def test_an_answer_goes_on_within_its_reasoning_or_behind_it(tokenizer, content, budget, answer):
    def says(request):
        ended = tokenizer.decode(request.prompt, skip_special=False).endswith(CLOSING)
        return [*tokenizer.encode("Yes." if ended else " abcdéfgh</think>No."), 2]

    messages = [*MESSAGES, {"role": "assistant", "content": content}]
    extra = OPENED["extra_body"] | ({} if budget is None else {"thinking_token_budget": budget})
    with served(ScriptedEngine(says), lambda: tokenizer) as server:
        until(server.front.ready)
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            assert both(client, messages=messages, extra_body=extra) == (*answer, [], "stop")


def test_tokens_are_counted_and_limited_over_both_parts(server, tokenizer, engine):
    tokens = [*tokenizer.encode("<think>abc" + CLOSING + "Yes."), 2]
    asked = {"messages": MESSAGES, "thinking_token_budget": 3, "return_token_ids": True}
    for most in (4, 12, 20, len(tokens) - 2, len(tokens), 100):
        answer = server.post(CHAT, **asked, max_tokens=most).json
        [choice] = answer["choices"]
        assert choice["finish_reason"] == ("stop" if most >= len(tokens) else "length")
        assert choice["token_ids"] == (tokens[:most] if most >= 10 else tokenizer.encode("<think>")[:most])
        assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])


def test_the_rest_waits_where_the_queue_is_full(server, engine):
    asked = {"messages": MESSAGES, "thinking_token_budget": 3}
    slots, queued = engine.slots, engine.max_queued
    try:
        engine.slots, engine.max_queued = 2, 0
        answers = [server.post(CHAT, **asked, n=2).json for _ in range(2)]
    finally:
        engine.slots, engine.max_queued = slots, queued
    assert {choice["message"]["content"] for answer in answers for choice in answer["choices"]} == {"Yes."}


@pytest.mark.parametrize("fields", [{"logprobs": True}, {"prompt_logprobs": 1}])
def test_what_is_refused(server, fields):
    answer = server.post(CHAT, messages=MESSAGES, thinking_token_budget=5, **fields)
    assert (answer.status, answer.error["param"]) == (400, "thinking_token_budget")


def test_a_model_that_does_not_reason_has_no_budget(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer, reasoning_parser="none") as server:
        until(server.front.ready)
        answer = server.post(CHAT, messages=MESSAGES, thinking_token_budget=5)
        assert (answer.status, answer.error["param"]) == (400, "thinking_token_budget")


def test_a_real_model_answers_in_the_form_behind_what_was_cut(folder, tokenizer):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["up"]}}}
    with served_folder(folder, lambda: tokenizer) as server:
        asked = OPENED | {"extra_body": OPENED["extra_body"] | {"thinking_token_budget": 9}}
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            thought, said, _, finish = both(client, **asked, response_format=form, seed=3, max_tokens=60)
            assert thought and (said, finish) == ('"up"', "stop")


STATES = [
    {"presence_penalty": 1.5},
    {"frequency_penalty": 1.0, "repetition_penalty": 1.2, "repeat_last_n": 6},
    {"dry_multiplier": 2.0, "dry_allowed_length": 1},
    {"mirostat": 2, "mirostat_tau": 2.0},
    {"mirostat": 1, "mirostat_tau": 3.0, "presence_penalty": 0.5},
    {"min_tokens": 20, "top_k": 5},
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: ",".join(state))
def test_what_goes_on_behind_a_cut_draws_as_if_there_were_none(folder, tokenizer, state):
    engine = engine_of(program_of(folder), "cpu")
    sampling = SamplingParams(max_tokens=40, temperature=1.5, **state)
    request = Request(id="a", prompt=[9, 8, 7, 9, 8], sampling=sampling, seed=5, bad_words=[[11, 12]])

    async def generate(asked):
        engine.add(asked)
        try:
            while engine.has_work:
                for output in engine.step():
                    yield output
        finally:
            engine.abort(asked.id)

    async def cut(tokens):
        budget = Budget(tokens, lambda: THINK.parser("inside"), lambda: Detokenizer(tokenizer), [], "")
        async with aclosing(within(budget, generate, request)) as outputs:
            return [token async for output in outputs for token in output.tokens]

    uncut = gathered(engine, [request])["a"].tokens
    assert len(uncut) == 40
    for tokens in (1, 7, 25):
        assert asyncio.run(cut(tokens)) == uncut
    engine.close()


def test_a_prompt_counts_as_cached_only_where_it_was(server, engine, tokenizer):
    fields = {"messages": MESSAGES, "thinking_token_budget": 3}
    usage = server.post(CHAT, **fields).json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
