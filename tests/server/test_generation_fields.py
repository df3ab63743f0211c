"""Fields of vLLM's and our own, through the official client: as the engine is asked, and as the answer says."""

import json
from urllib.parse import unquote

import openai
import pytest
import tiny_llama
from scripted_engine import MAX_LEN, VOCAB, ScriptedEngine, scripted
from served import served, until

from octavo.checkpoint.source import open_source
from octavo.text.breakers import Breakers
from octavo.text.tokenizer import load_tokenizer

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good mor"}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def server(engine, tokenizer):
    with served(engine, lambda: tokenizer, trust_request_chat_template=True, ignore_unknown=True) as running:
        until(running.front.ready)
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def complete(client, prompt="Hello", **fields):
    return client.completions.create(model="tiny", prompt=prompt, max_tokens=8, extra_body=fields)


def chat(client, messages=MESSAGES, **fields):
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, extra_body=fields)


def refused(call, field):
    with pytest.raises(openai.BadRequestError) as caught:
        call()
    assert caught.value.body["param"] == field


def test_allowed_token_ids(client, engine):
    complete(client, allowed_token_ids=[5, 7])
    assert engine.requests[-1].sampling.allowed_token_ids == [5, 7]
    refused(lambda: complete(client, allowed_token_ids=[VOCAB]), "allowed_token_ids")


def test_bad_words_are_spelled_alone_and_behind_a_space(client, engine, tokenizer):
    complete(client, bad_words=["b", " cd"])
    bare = [tokenizer.encode(text, special=False) for text in ("b", "cd")]
    lists = engine.requests[-1].bad_words
    assert [word for word in bare if word in lists] == bare
    assert all(tokenizer.decode(word).strip() in ("b", "cd") for word in lists)


def test_samplers_of_llama_cpp(client, engine, tokenizer):
    fields = {"typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.2, "mirostat": 2,
              "mirostat_tau": 4.0, "mirostat_eta": 0.2, "dynatemp_range": 0.3, "dynatemp_exponent": 1.2,
              "dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 64,
              "dry_sequence_breakers": ["the"], "repeat_last_n": 32,
              "samplers": ["dry", "top_k", "temperature"]}  # fmt: skip
    for ask in (complete, chat):
        ask(client, **fields, repeat_penalty=1.2)
        request = engine.requests[-1]
        assert {name: getattr(request.sampling, name) for name in fields} == fields
        assert request.sampling.repetition_penalty == 1.2
        assert request.dry_breakers == Breakers(tokenizer).of(["the"])
    complete(client, repeat_penalty=1.2, repetition_penalty=1.2)
    refused(lambda: complete(client, repeat_penalty=1.2, repetition_penalty=1.3), "repeat_penalty")
    refused(lambda: complete(client, samplers=["top_k", "infill"]), "samplers")


def test_logits_processors(client, engine, server):
    refused(lambda: complete(client, logits_processors={"favour": {}}), "logits_processors")
    engine.logits_processors = ["favour"]
    asked = {"favour": {"tokens": [5], "strength": 0.5}}
    for ask in (complete, chat):
        ask(client, logits_processors=asked)
        assert engine.requests[-1].sampling.logits_processors == asked
    engine.processor_seconds = {"favour": 1.5}
    page = server.ask("GET", "/metrics").body.decode()
    assert 'octavo_logits_processor_seconds_total{processor="favour"} 1.5' in page


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("top_k", {"top_k": 5}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("n", {"n": 11}),
        ("use_beam_search", {"stream": True}),
        ("deadline_ms", {"deadline_ms": 1000}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("grammar", {"grammar": "start: /a/"}),
        ("structured_outputs.choice", {"structured_outputs": {"choice": ["a"]}}),
    ],
)
def test_what_beam_search_cannot_heed(client, field, fields):
    for ask in (complete, chat):
        refused(lambda ask=ask: ask(client, use_beam_search=True, **fields), field)


MARKS = {
    "qwen": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"),
    "starcoder": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),
    "deepseek": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<|endoftext|>"),
    "code llama": ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
}


@pytest.mark.parametrize("kind", MARKS)
def test_suffix(engine, tmp_path, kind):
    folder = tiny_llama.write_folder(tmp_path, tokenizer=True)
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    for mark in MARKS[kind]:
        if mark not in written["model"]["vocab"]:
            id = len(written["model"]["vocab"])
            written["model"]["vocab"][mark] = id
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            written["added_tokens"].append({"id": id, "content": mark, "special": kind != "qwen", **flags})
    path.write_text(json.dumps(written))
    with open_source(folder) as source:
        tokenizer = load_tokenizer(source)
    before, behind, middle, end = (tokenizer.id_of(mark) for mark in MARKS[kind])
    with served(engine, lambda: tokenizer) as running:
        until(running.front.ready)
        with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client:
            client.completions.create(model="tiny", prompt="def f(x):", suffix="return y", max_tokens=4)
            plain = client.completions.create(model="tiny", prompt="def f(x):", suffix="", max_tokens=4)
    request, last = engine.requests
    text = [tokenizer.encode(part, special=False) for part in ("def f(x):", "return y")]
    assert request.prompt == [before, *text[0], behind, *text[1], middle]
    assert {before, behind, middle, end} <= set(request.eos_ids)
    assert last.prompt == tokenizer.encode("def f(x):")
    assert plain.usage.prompt_tokens == len(last.prompt)


def test_a_suffix_is_refused_where_the_model_cannot_fill_in(client):
    refused(lambda: client.completions.create(model="tiny", prompt="a", suffix="b"), "suffix")


def test_truncate_prompt_tokens(client, engine, tokenizer):
    whole = tokenizer.encode("Hello, wide world")
    answer = complete(client, "Hello, wide world", truncate_prompt_tokens=3, echo=True)
    assert engine.requests[-1].prompt == whole[-3:]
    assert answer.usage.prompt_tokens == 3
    assert answer.choices[0].text.startswith(tokenizer.decode(whole[-3:]))
    complete(client, "Hello, wide world", truncate_prompt_tokens=MAX_LEN)
    assert engine.requests[-1].prompt == whole
    complete(client, [7] * (2 * MAX_LEN), truncate_prompt_tokens=-1)
    assert len(engine.requests[-1].prompt) == MAX_LEN - 8
    refused(lambda: complete(client, [7] * (2 * MAX_LEN)), "prompt")
    chat(client, truncate_prompt_tokens=4)
    assert len(engine.requests[-1].prompt) == 4


def test_the_name_of_a_request_stands_in_the_answers_id(client, server):
    assert complete(client, request_id="mine").id == "cmpl-mine"
    assert chat(client, request_id="mine").id == "chatcmpl-mine"
    named = client.completions.create(model="tiny", prompt="a", extra_headers={"X-Request-Id": "theirs"})
    assert named.id == "cmpl-theirs"
    first, second = (complete(client, request_id="same") for _ in range(2))  # no matter that it is not unique
    assert first.choices[0].text != "" and second.id == first.id
    bad = server.ask("POST", "/v1/completions", {"prompt": "a"}, x_request_id="a b")
    assert bad.status == 400 and bad.error["param"] == "x-request-id"


def test_what_is_not_done_at_its_deadline_ends_there(client, engine):
    engine.seconds_per_token = 0.02
    answer = client.completions.create(model="tiny", prompt="Hello", max_tokens=400, extra_body={"deadline_ms": 300})
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.stop_reason) == ("length", "deadline")
    assert 0 < answer.usage.completion_tokens < 20
    assert engine.given_up and not engine.live
    chunks = list(
        client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, extra_body={"deadline_ms": 200})
    )
    assert chunks[-1].choices[0].finish_reason == "length"
    until(lambda: not engine.live)
    engine.held = True  # nobody gets on: the answer is empty, and an answer
    assert complete(client, deadline_ms=50).choices[0].finish_reason == "length"
    engine.held, engine.seconds_per_token = False, 0.0
    assert complete(client, deadline_ms=60_000).choices[0].stop_reason is None


def test_best_of_gives_the_likeliest(client, engine, monkeypatch):
    likely = {0: -3.0, 1: -1.0, 2: -9.0, 3: -1.0}

    def figures(token, top):
        from octavo.core.plan import TokenLogprob

        seed = next(r.seed for r in engine.requests if scripted(r)[0] == token)
        return TokenLogprob(token, likely[seed - 10], 1, [])

    monkeypatch.setattr("scripted_engine._figures", figures)
    answer = client.completions.create(model="tiny", prompt="Hello", n=3, best_of=4, seed=10, max_tokens=1)
    assert answer.usage.completion_tokens == 4  # what is left out was computed
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.logprobs for choice in answer.choices] == [None] * 3
    alone = [
        client.completions.create(model="tiny", prompt="Hello", seed=10 + which, max_tokens=1).choices[0].text
        for which in (1, 3, 0)
    ]
    assert [choice.text for choice in answer.choices] == alone


def test_best_of_counts_each_token_the_same(client, engine, monkeypatch):
    engine.answer = lambda request: [20] if request.seed == 10 else [30, 31]

    def figures(token, top):
        from octavo.core.plan import TokenLogprob

        return TokenLogprob(token, -3.0 if token == 20 else -2.0, 1, [])

    monkeypatch.setattr("scripted_engine._figures", figures)
    asked = {"model": "tiny", "prompt": "Hello", "max_tokens": 2, "extra_body": {"return_token_ids": True}}
    (best,) = client.completions.create(**asked, best_of=2, seed=10).choices
    assert best.token_ids == [30, 31]


def test_continue_final_message(client, engine, tokenizer):
    chat(client, chat_template=TEMPLATE, add_generation_prompt=False, continue_final_message=True)
    assert tokenizer.decode(engine.requests[-1].prompt, skip_special=False).endswith("<assistant>Good mor")
    chat(client, chat_template=TEMPLATE, add_generation_prompt=False)
    assert tokenizer.decode(engine.requests[-1].prompt, skip_special=False).endswith("Good mor</>")
    refused(lambda: chat(client, continue_final_message=True), "continue_final_message")
    blank = [{"role": "assistant", "content": " "}]
    fields = {"add_generation_prompt": False, "continue_final_message": True}
    refused(lambda: chat(client, blank, **fields), "continue_final_message")


def test_tokenize_reads_a_conversation_as_the_chat_does(client, engine, server):
    for fields in (
        {},
        {"chat_template": TEMPLATE},
        {"add_generation_prompt": False},
        {"chat_template": TEMPLATE, "add_generation_prompt": False, "continue_final_message": True},
    ):
        chat(client, **fields)
        given = server.post("/tokenize", messages=MESSAGES, **fields).json
        assert given["tokens"] == engine.requests[-1].prompt
        assert given["count"] == len(given["tokens"])
    for path, fields, param in (
        ("/tokenize", {"messages": MESSAGES, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"prompt": "a", "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "{% for %}"}, "chat_template"),
    ):
        answer = server.post(path, **fields)
        assert (answer.status, answer.error["param"]) == (400, param)


def test_a_chat_template_of_the_request(client, engine, tokenizer):
    chat(client, chat_template="{{ messages[0].content }}!")
    assert engine.requests[-1].prompt == tokenizer.encode("Hello!", special=False)
    refused(lambda: chat(client, chat_template="{% for %}"), "chat_template")
    refused(lambda: chat(client, chat_template="{% include 'x' %}"), "chat_template")
    attacks = (
        "{{ ''.__class__.__mro__ }}",
        "{{ self.__init__.__globals__ }}",
        "{% for i in range(10**9) %}a{% endfor %}",
    )
    for attack in attacks:
        with pytest.raises(openai.BadRequestError):
            chat(client, chat_template=attack)


def test_a_chat_template_is_refused_where_the_server_was_not_told_to_trust_it(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer) as server:
        until(server.front.ready)
        answer = server.post("/v1/chat/completions", messages=MESSAGES, chat_template="a")
        assert answer.status == 400 and answer.error["param"] == "chat_template"
        assert "--trust-request-chat-template" in answer.error["message"]
        assert server.post("/v1/completions", prompt="a", foo=1).error["code"] == "unknown_parameter"


def test_what_is_unknown_is_ignored_only_where_the_server_was_told_to_and_is_named(server):
    answer = server.post("/v1/completions", prompt="a", foo=1, **{"b\r\nx: ü": None})
    assert answer.status == 200
    assert answer.headers["x-octavo-ignored"] == "foo,b%0D%0Ax%3A%20%C3%BC"
    streamed = server.post("/v1/chat/completions", messages=MESSAGES, stream=True, max_tokens=2, foo=1)
    assert streamed.headers["x-octavo-ignored"] == "foo"
    assert "x-octavo-ignored" not in server.post("/v1/completions", prompt="a").headers
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    tool = {"type": "function", "function": {"name": "f", "cached": 1}, "title": "F"}
    within = server.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": [part], "mood": 1}, *MESSAGES],
        tools=[tool],
        tool_choice="none",
        foo=1,
        max_tokens=2,
    )
    assert within.status == 200
    ignored = sorted(unquote(within.headers["x-octavo-ignored"]).split(","))
    assert ignored == [
        "content[0].cache_control",
        "foo",
        "messages[0].mood",
        "tools[0].function.cached",
        "tools[0].title",
    ]
    image = {"type": "image_url", "image_url": {"url": "x"}}
    bad = server.post("/v1/chat/completions", messages=[{"role": "user", "content": [image], "mood": 1}])
    assert bad.error["param"] == "messages[0].content[0].type"
    assert server.post("/v1/completions", prompt="a", flat_logprobs=True).error["param"] == "flat_logprobs"


def test_add_special_tokens(engine, tmp_path):
    folder = tiny_llama.write_folder(tmp_path, tokenizer=True)
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    begin = written["added_tokens"][0]
    written["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "begin", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"begin": {"id": "begin", "ids": [begin["id"]], "tokens": [begin["content"]]}},
    }
    path.write_text(json.dumps(written))
    with open_source(folder) as source:
        marked = load_tokenizer(source)
    with served(engine, lambda: marked) as server:
        until(server.front.ready)
        for path, body, default in (
            ("/v1/completions", {"prompt": "Hello"}, True),
            ("/v1/chat/completions", {"messages": MESSAGES}, False),
        ):
            prompts = {}
            for given in (True, False):
                assert server.post(path, **body, max_tokens=1, add_special_tokens=given).status == 200
                prompts[given] = engine.requests[-1].prompt
            assert prompts[True] == [begin["id"], *prompts[False]]
            assert server.post(path, **body, max_tokens=1).status == 200
            assert engine.requests[-1].prompt == prompts[default]
        for given in (True, False):  # no text is echoed of a mark that was added
            fields = {"prompt": "Hello", "echo": True, "logprobs": 0, "max_tokens": 1, "add_special_tokens": given}
            offsets = server.post("/v1/completions", **fields).json["choices"][0]["logprobs"]["text_offset"]
            assert offsets[:2] == ([0, 0] if given else [0, 1]) and offsets[-1] == len("Hello")
