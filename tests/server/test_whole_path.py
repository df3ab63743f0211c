"""The whole path: client, HTTP, front, engine process, scheduler, executor, on a tiny model with a tokenizer."""

import os
import signal
import socket
import threading

import openai
import psutil
import pytest
import tiny_llama
from prometheus_client.parser import text_string_to_metric_families
from served import served, until

from octavo import LLM, BeamSearchParams
from octavo.checkpoint.source import open_source
from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.engine.client import ProcessClient
from octavo.engine.config import LaunchConfig
from octavo.text.tokenizer import load_tokenizer

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Say something, please: anything at all."}]
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True, max_len=8192)


@pytest.fixture(scope="module")
def server(folder):
    launch = LaunchConfig(
        model=str(folder),
        name="tiny",
        scheduler=SchedulerConfig(max_seqs=4, max_step_tokens=16, max_queued=8),
        cache=CacheConfig(memory_bytes=2**30),
        exec=ExecConfig(executor="cpu", threads=1),
    )

    def load():
        source = open_source(folder)
        try:
            return load_tokenizer(source)
        finally:
            source.close()

    with served(ProcessClient(launch), load) as made:
        assert made.ask("GET", "/live").status == 200
        assert made.ask("GET", "/ready").status == 503
        until(lambda: made.ask("GET", "/ready").status == 200, 60)
        yield made


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(server):
    yield
    until(lambda: figure(server, "octavo_kv_pages", state="held") == 0)
    assert figure(server, "octavo_requests_running") == figure(server, "octavo_requests_waiting") == 0
    until(lambda: server.front.inflight == 0)


def figure(server, name, **labels):
    page = server.ask("GET", "/metrics").body.decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return next(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def complete(server, prompt, **fields):
    """Token ids and log-probabilities of a completion."""
    fields = {"max_tokens": 12, "logprobs": 2, "return_token_ids": True, **fields}
    answer = server.post(COMPLETE, prompt=prompt, **fields)
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    return choice["token_ids"], choice["logprobs"], choice["text"]


def test_the_same_tokens_and_logprobs_alone_among_others_cached_and_streamed(server, client):
    prompt = "It was a dark and stormy night, and the rain fell in torrents: " * 3
    fields = {"max_tokens": 12, "seed": 11, "temperature": 0.9}
    alone = complete(server, prompt, **fields)
    assert complete(server, prompt, **fields) == alone
    cached = client.completions.create(model="tiny", prompt=prompt, max_tokens=1)
    assert cached.usage.prompt_tokens_details.cached_tokens >= 32
    others = [threading.Thread(target=complete, args=(server, f"{k} others"), kwargs={"seed": k}) for k in range(5)]
    for thread in others:
        thread.start()
    assert complete(server, prompt, **fields) == alone
    salted = complete(server, prompt, **fields, cache_salt="another tenant")
    for thread in others:
        thread.join()
    assert salted == alone
    stream = client.completions.create(model="tiny", prompt=prompt, logprobs=2, stream=True, **fields)
    choices = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.text for choice in choices) == alone[2]
    shapes = [choice.logprobs for choice in choices if choice.logprobs]
    assert [value for shape in shapes for value in shape.token_logprobs] == alone[1]["token_logprobs"]


def test_a_chat_streamed_and_not(client):
    fields = {"model": "tiny", "messages": MESSAGES, "max_tokens": 16, "n": 3, "seed": 2, "logprobs": True}
    whole = client.chat.completions.create(**fields, top_logprobs=2)
    texts = {}
    for chunk in client.chat.completions.create(**fields, top_logprobs=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert whole.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in whole.choices)


def test_choices_are_those_of_single_calls(server):
    three = server.post(COMPLETE, prompt="seeds", n=3, seed=5, max_tokens=8, return_token_ids=True).json["choices"]
    single = [complete(server, "seeds", seed=5 + k, max_tokens=8, logprobs=None)[0] for k in range(3)]
    assert [choice["token_ids"] for choice in three] == single


def test_echo_and_prompt_logprobs_agree_with_generation(server):
    tokens, logprobs, _ = complete(server, "agree", **GREEDY)
    prompt = server.post("/tokenize", prompt="agree").json["tokens"]
    scored = server.post(COMPLETE, prompt=prompt + tokens, echo=True, max_tokens=0, logprobs=2, prompt_logprobs=1).json[
        "choices"
    ][0]
    assert scored["logprobs"]["token_logprobs"][len(prompt) :] == logprobs["token_logprobs"]
    assert scored["logprobs"]["tokens"][len(prompt) :] == logprobs["tokens"]
    assert len(scored["prompt_logprobs"]) == len(prompt) + len(tokens)


def test_logprobs_of_tokens_that_are_named(server):
    asked = {"max_tokens": 3, "return_tokens_as_token_ids": True, **GREEDY}
    most = server.post(COMPLETE, prompt="the other", logprobs=20, **asked).json["choices"][0]["logprobs"]
    first = most["top_logprobs"][0]
    names = list(first)[9:3:-2]
    asked["logprob_token_ids"] = [int(name.removeprefix("token_id:")) for name in names]
    shape = server.post(COMPLETE, prompt="the other", logprobs=1, **asked).json["choices"][0]["logprobs"]
    assert (shape["tokens"], shape["token_logprobs"]) == (most["tokens"], most["token_logprobs"])
    drawn = shape["tokens"][0]
    assert shape["top_logprobs"][0] == {name: first[name] for name in [*names, drawn]}
    said = server.post(CHAT, messages=MESSAGES, logprobs=True, **asked).json["choices"][0]["logprobs"]["content"]
    assert [[top["token"] for top in one["top_logprobs"]] for one in said] == [names] * 3
    for path, fields in ((COMPLETE, {"prompt": "a"}), (CHAT, {"messages": MESSAGES})):
        assert server.post(path, **fields, **asked).error["param"] == "logprob_token_ids"
        named = {"logprobs": True if path == CHAT else 0, "logprob_token_ids": [10**6]}
        assert server.post(path, **fields, **named).error["param"] == "logprob_token_ids"


def test_tokens_by_their_numbers(server):
    asked = {"max_tokens": 5, "return_token_ids": True, **GREEDY}
    choice = server.post(COMPLETE, prompt="a", logprobs=1, **asked, return_tokens_as_token_ids=True).json["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
    asked |= {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
    plain, numbered = (
        server.post(CHAT, **asked, return_tokens_as_token_ids=wanted).json["choices"][0] for wanted in (False, True)
    )
    assert plain["message"] == numbered["message"]
    for one, other, token in zip(
        plain["logprobs"]["content"], numbered["logprobs"]["content"], numbered["token_ids"], strict=True
    ):
        assert other == one | {"token": f"token_id:{token}", "top_logprobs": other["top_logprobs"]}


def test_a_prompt_that_is_computed_anew(server):
    prompt = "It was a dark and stormy night, and nobody had asked for this one before: " * 2
    cached, told = [], []
    for fields in ({}, {}, {"skip_reading_prefix_cache": True}, {"cache_prompt": False}, {"cache_prompt": True}):
        answer = server.post(COMPLETE, prompt=prompt, max_tokens=4, **GREEDY, **fields).json
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
        told.append(answer["choices"][0]["text"])
    assert cached[1:] == [True, False, False, True]
    assert len(set(told)) == 1


def test_an_answer_that_repeats_itself_ends(client):
    fields = {"allowed_token_ids": [70], "repetition_detection": {"max_pattern_size": 2, "min_count": 5}}
    said = client.completions.create(model="tiny", prompt="a", max_tokens=20, extra_body=fields)
    assert (said.choices[0].finish_reason, said.choices[0].stop_reason) == ("repetition", "repetition_detected")
    assert said.usage.completion_tokens == 5
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=20, extra_body=fields, stream=True
    )
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "repetition"


def test_stop_strings_and_stop_tokens(server):
    tokens, _, text = complete(server, "stop", **GREEDY, max_tokens=40)
    stop = text[12:14]
    answer = server.post(COMPLETE, prompt="stop", stop=stop, max_tokens=40, **GREEDY).json["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (text[: text.index(stop)], "stop")
    stopped, _, _ = complete(server, "stop", **GREEDY, max_tokens=40, stop_token_ids=[tokens[5]])
    assert stopped == tokens[: tokens.index(tokens[5]) + 1]


@pytest.mark.parametrize("way", ["reset", "close", "half close"])
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
def test_who_leaves_frees_its_pages_and_the_others_do_not_notice(server, stage, way):
    alone = complete(server, "the other one", **GREEDY, max_tokens=200)
    fillers = [server.connect() for _ in range(4 if stage == "queued" else 0)]
    for talk in fillers:
        talk.send("POST", COMPLETE, {"prompt": "fill", "max_tokens": 8000, "stream": True} | GREEDY)
    until(lambda: stats(server).running == len(fillers))
    before, result = stats(server), []
    other = threading.Thread(
        target=lambda: result.append(complete(server, "the other one", **GREEDY, max_tokens=200, cache_salt=way))
    )
    other.start()
    prompt = [70 + k % 200 for k in range(8000)] if stage == "prefill" else "mine"
    mine = server.connect()
    fields = {"prompt": prompt, "max_tokens": 190 if stage == "prefill" else 8000, "cache_salt": way + stage}
    mine.send("POST", COMPLETE, {"stream": True} | fields | GREEDY)
    if stage == "queued":
        until(lambda: stats(server).waiting == 2)
    elif stage == "prefill":  # it has been looked up, which happens when it starts
        until(lambda: stats(server).prefix_queries >= before.prefix_queries + 8000)
    else:
        assert mine.head()[0] == 200
        mine.chunk()
    if way == "half close":
        mine.sock.shutdown(socket.SHUT_WR)
    elif way == "reset":
        mine.reset()
    mine.close()
    until(lambda: stats(server).finished.get("abort", 0) == before.finished.get("abort", 0) + 1)
    for talk in fillers:
        talk.close()
    other.join()
    assert result == [alone]


def stats(server):
    return server.front.status().stats


def test_more_than_the_queue_holds_is_refused(server):
    answer = server.post(COMPLETE, prompt="a", n=100, max_tokens=50)
    assert (answer.status, answer.error["code"]) == (429, "queue_full")


def test_bad_requests_leave_nothing_and_change_nobody(server):
    alone = complete(server, "steady", **GREEDY)
    for fields, status in (
        ({"prompt": ""}, 400),
        ({"prompt": [400]}, 400),
        ({"prompt": [5] * 9000}, 400),
        ({"prompt": "x " * 100_000}, 400),
        ({"prompt": "a", "temperature": float("nan")}, 400),
        ({"prompt": "a", "model": "b"}, 404),
        ({"prompt": "a", "logit_bias": {"319": -100, "320": 1}}, 400),
        ({"prompt": "x" * 9_000_000}, 413),
    ):
        assert server.post(COMPLETE, **fields).status == status
    assert complete(server, "steady", **GREEDY) == alone


def test_how_much_was_cached_is_told_to_the_token_and_not_across_salts(server):
    """As docs/security.md says: whose prompt ends within a page is matched up to there; others' salts match nothing."""
    begin = [5 + place * place % 40 for place in range(45)]

    def cached(tokens: list[int], **fields) -> int:
        usage = server.post(COMPLETE, prompt=tokens, max_tokens=1, **fields).json["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached(begin) == 0
    assert cached([*begin, 7, 8, 9]) == 45
    assert cached([*begin[:44], 60, 61]) == 32  # nobody's prompt or answer ended there
    for salt in ("one", "two"):
        assert cached([*begin, 7, 8, 9], cache_salt=salt) == 0
    assert cached([*begin, 7, 8, 9, 10], cache_salt="two") == 48


def test_the_engine_is_killed_and_comes_back(server):
    alone = complete(server, "before and after", **GREEDY)
    talk = server.connect()
    talk.send("POST", COMPLETE, {"prompt": "killed", "max_tokens": 400, "stream": True} | GREEDY)
    assert talk.head()[0] == 200
    talk.chunk()
    (engine,) = psutil.Process().children()
    os.kill(engine.pid, signal.SIGKILL)
    rest = b"".join(iter(talk.chunk, b""))
    assert b'data: {"error":' in rest and b"[DONE]" not in rest
    talk.close()
    assert server.ask("GET", "/ready").status == 503
    assert server.post(COMPLETE, prompt="a").status == 503
    until(lambda: server.ask("GET", "/ready").status == 200, 60)
    assert complete(server, "before and after", **GREEDY) == alone
    assert figure(server, "octavo_engine_restarts_total") == 1


@pytest.mark.parametrize("penalty", [1.0, 0.0])
def test_beam_search_gives_the_beams_of_llm(client, folder, penalty):
    fields = {"use_beam_search": True, "length_penalty": penalty, "return_token_ids": True}
    prompts = ["Hello, wide world", [5, 6, 7]]
    answer = client.completions.create(model="tiny", prompt=prompts[0], n=3, max_tokens=40, extra_body=fields)
    second = client.completions.create(model="tiny", prompt=prompts[1], n=3, max_tokens=40, extra_body=fields)
    with LLM(str(folder), memory="160MiB", threads=1) as llm:
        params = BeamSearchParams(beam_width=3, max_tokens=40, length_penalty=penalty)
        outputs = llm.beam_search(prompts, params)
        starts = [len(llm.tokenizer.encode(prompts[0])), 3]
    for given, output, start in zip((answer, second), outputs, starts, strict=True):
        assert [choice.token_ids for choice in given.choices] == [beam.tokens[start:] for beam in output.sequences]
        assert [choice.finish_reason for choice in given.choices] == [beam.finish_reason for beam in output.sequences]
        assert [choice.index for choice in given.choices] == [0, 1, 2]
        assert given.usage.completion_tokens == sum(len(choice.token_ids) for choice in given.choices)


def test_a_beam_computes_one_token_a_step(client, server):
    before = stats(server)
    fields = {"use_beam_search": True, "ignore_eos": True, "cache_salt": "beams"}
    prompt = [5 + place % 40 for place in range(45)]
    client.completions.create(model="tiny", prompt=prompt, n=4, max_tokens=32, extra_body=fields)

    asked = 45 + sum(4 * (45 + step) for step in range(1, 32))
    until(lambda: stats(server).prefix_queries - before.prefix_queries == asked)
    assert asked - (stats(server).prefix_hits - before.prefix_hits) == 45 + 4 * 31


def test_beam_search_of_a_chat(client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, n=2, max_tokens=6, extra_body={"use_beam_search": True, "ignore_eos": True}
    )
    assert len({choice.message.content for choice in answer.choices}) == 2
    assert answer.usage.completion_tokens == 12
