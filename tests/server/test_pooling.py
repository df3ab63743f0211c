"""Embeddings, classes, scores and ranks over HTTP, from an engine process, equal to what `LLM` gives."""

import base64
import contextlib
from contextlib import ExitStack

import numpy as np
import openai
import pytest
import tiny_llama
import tiny_pooling
from served import until
from served_folder import served_folder

from octavo import LLM, PoolingParams
from octavo.checkpoint.source import open_source
from octavo.core.config import SchedulerConfig
from octavo.text.tokenizer import load_tokenizer

TEXTS = ["the cat sleeps", "a dog", "the dog runs fast, the cat sleeps.", "red! blue", "payment city amount"]
LONG = "the cat runs. the dog sleeps, day and night! " * 20
MAKERS = {
    "embedder": tiny_pooling.embedder,
    "classifier": tiny_pooling.classifier,
    "crosser": tiny_pooling.cross_encoder,
}


SCHEDULER = SchedulerConfig(max_seqs=8, max_queued=200)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("models")
    return {name: make(parent / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def servers(folders):
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(served_folder(folder, scheduler=SCHEDULER)) for name, folder in folders.items()
        }


@pytest.fixture(scope="module")
def models(folders):
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(LLM(folder, memory="1GiB", threads=1, packed_cache=False))
            for name, folder in folders.items()
        }


@pytest.fixture(scope="module")
def client(servers):
    with openai.OpenAI(base_url=servers["embedder"].url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def given(server, path, **body):
    answer = server.ask("POST", path, body)
    assert answer.status == 200, answer.body
    return answer.json


def refused(server, path, **body):
    answer = server.ask("POST", path, body)
    assert answer.status == 400, answer.body
    return answer.json["error"]


@pytest.mark.parametrize("form", ["float", "base64"])
def test_the_official_client_gets_embeddings(client, models, form):
    answer = client.embeddings.create(model="tiny", input=TEXTS, encoding_format=form)
    expected = models["embedder"].embed(TEXTS, use_tqdm=False)
    assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    for entry, each in zip(answer.data, expected, strict=True):
        vector = entry.embedding
        if form == "base64":
            vector = np.frombuffer(base64.b64decode(vector), "<f4").tolist()
        assert vector == each.outputs.embedding
    count = sum(len(each.prompt_token_ids) for each in expected)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (count, count, "tiny")


def test_embeddings_of_every_form_of_input(client, models):
    tokens = [models["embedder"].tokenizer.encode(text) for text in TEXTS]
    texts = [entry.embedding for entry in client.embeddings.create(model="tiny", input=TEXTS).data]
    ids = [entry.embedding for entry in client.embeddings.create(model="tiny", input=tokens).data]
    assert texts == ids
    assert client.embeddings.create(model="tiny", input=TEXTS[1]).data[0].embedding == texts[1]
    assert client.embeddings.create(model="tiny", input=tokens[1]).data[0].embedding == texts[1]
    bare = client.embeddings.create(model="tiny", input=TEXTS[1], extra_body={"add_special_tokens": False})
    assert bare.usage.prompt_tokens == len(tokens[1]) - 2


def test_dimensions_lengths_and_pieces(client, models):
    llm = models["embedder"]
    short = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=5).data[0].embedding
    assert short == llm.embed(TEXTS[0], PoolingParams(dimensions=5), use_tqdm=False)[0].outputs.embedding
    raw = client.embeddings.create(model="tiny", input=TEXTS[0], extra_body={"normalize": False}).data[0].embedding
    assert raw == llm.embed(TEXTS[0], PoolingParams(normalize=False), use_tqdm=False)[0].outputs.embedding
    pieces = client.embeddings.create(
        model="tiny", input=[TEXTS[0], LONG], extra_body={"enable_chunked_processing": True}
    )
    expected = llm.embed([TEXTS[0], LONG], use_tqdm=False, enable_chunked_processing=True)
    assert [entry.embedding for entry in pieces.data] == [each.outputs.embedding for each in expected]
    bare = {"add_special_tokens": False}
    whole, cut_up = (
        client.embeddings.create(model="tiny", input=TEXTS[0], extra_body=bare | {"enable_chunked_processing": chunked})
        for chunked in (False, True)
    )
    assert cut_up.usage == whole.usage
    np.testing.assert_allclose(cut_up.data[0].embedding, whole.data[0].embedding, atol=1e-6)
    cut = client.embeddings.create(model="tiny", input=LONG, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == tiny_pooling.LONGEST


def test_many_texts_at_once_are_what_they_are_alone(servers, models):
    rng = np.random.default_rng(3)
    tokens = [rng.integers(4, 60, length).tolist() for length in rng.integers(1, 60, 600)]
    answer = given(servers["embedder"], "/v1/embeddings", input=tokens)
    some = models["embedder"].embed([tokens[i] for i in (0, 299, 599)], use_tqdm=False)
    assert [answer["data"][i]["embedding"] for i in (0, 299, 599)] == [each.outputs.embedding for each in some]
    assert servers["embedder"].front.client.status().stats.pages_held == 0


def test_a_call_that_was_taken_waits_for_room_in_the_queue(folders, models):
    tokens = [[5 + i % 50, 6, 7 + i // 50] for i in range(150)]
    with served_folder(folders["embedder"], scheduler=SchedulerConfig(max_seqs=2, max_queued=3)) as server:
        answer = given(server, "/v1/embeddings", input=tokens)
        expected = models["embedder"].embed(tokens, use_tqdm=False)
        assert [entry["embedding"] for entry in answer["data"]] == [each.outputs.embedding for each in expected]
        assert answer["usage"]["prompt_tokens"] == 450
        with contextlib.closing(server.connect()) as talk:
            talk.send("POST", "/v1/embeddings", {"input": [[5, 6, 7] * 20] * 2048})
            until(lambda: server.front.client.status().stats.waiting)
        until(lambda: server.front.inflight == 0)
        until(lambda: not server.front.client.status().stats.pages_held)


def test_vectors_of_tokens(servers, models):
    answer = given(servers["embedder"], "/pooling", input=TEXTS[:2], task="token_embed")
    expected = models["embedder"].encode(TEXTS[:2], use_tqdm=False, pooling_task="token_embed")
    assert [entry["data"] for entry in answer["data"]] == [each.outputs.data.tolist() for each in expected]
    packed = given(servers["embedder"], "/pooling", input=TEXTS[0], task="token_embed", encoding_format="base64")
    raw = np.frombuffer(base64.b64decode(packed["data"][0]["data"]), "<f4")
    assert np.array_equal(raw.reshape(-1, 48), expected[0].outputs.data)
    usual = given(servers["embedder"], "/pooling", input=TEXTS[0])["data"][0]
    assert usual == {
        "index": 0,
        "object": "pooling",
        "data": models["embedder"].embed(TEXTS[0], use_tqdm=False)[0].outputs.embedding,
    }


def test_classes(servers, models):
    answer = given(servers["classifier"], "/classify", input=TEXTS, request_id="mine")
    expected = [each.outputs.probs for each in models["classifier"].classify(TEXTS, use_tqdm=False)]
    assert [entry["probs"] for entry in answer["data"]] == expected
    names = ["calm", "odd", "wild"]
    assert [entry["label"] for entry in answer["data"]] == [names[int(np.argmax(probs))] for probs in expected]
    assert {entry["num_classes"] for entry in answer["data"]} == {3}
    assert (answer["object"], answer["id"]) == ("list", "classify-mine")
    raw = given(servers["classifier"], "/classify", input=TEXTS[0], use_activation=False)["data"][0]["probs"]
    params = PoolingParams(use_activation=False)
    assert raw == models["classifier"].classify(TEXTS[0], params, use_tqdm=False)[0].outputs.probs


@pytest.mark.parametrize("name", ["crosser", "embedder"])
def test_scores_and_ranks_of_models_of_both_kinds(servers, models, name):
    expected = [each.outputs.score for each in models[name].score(TEXTS[0], TEXTS, use_tqdm=False)]
    for path in ("/score", "/v1/score"):
        answer = given(servers[name], path, text_1=TEXTS[0], text_2=TEXTS)
        assert [entry["score"] for entry in answer["data"]] == expected
    assert given(servers[name], "/score", queries=TEXTS[0], documents=TEXTS)["data"] == answer["data"]
    pairs = given(servers[name], "/score", text_1=TEXTS, text_2=TEXTS)
    assert pairs["data"][0]["score"] == expected[0]
    order = sorted(range(len(TEXTS)), key=lambda place: -expected[place])
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        ranking = given(servers[name], path, query=TEXTS[0], documents=[*TEXTS[:-1], {"text": TEXTS[-1]}])
        assert [entry["index"] for entry in ranking["results"]] == order
        assert [entry["relevance_score"] for entry in ranking["results"]] == [expected[place] for place in order]
        assert [entry["document"]["text"] for entry in ranking["results"]] == [TEXTS[place] for place in order]
    first = given(servers[name], "/rerank", query=TEXTS[0], documents=TEXTS, top_n=2, return_documents=False)
    assert [entry["index"] for entry in first["results"]] == order[:2]
    assert {entry["document"] for entry in first["results"]} == {None}


MESSAGES = [{"role": "user", "content": "the cat sleeps"}, {"role": "assistant", "content": "a dog runs"}]
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ mark or '.' }}{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %} dog{% endif %}"


@pytest.fixture(scope="module")
def chatty(folders):
    def load():
        with open_source(folders["embedder"]) as source:
            made = load_tokenizer(source)
        made.chat_template = TEMPLATE
        return made

    with served_folder(folders["embedder"], load, trust_request_chat_template=True) as server:
        yield server


def test_a_conversation_is_what_its_template_writes(chatty):
    said = "the cat sleeps.a dog runs."
    for fields, text in (
        ({}, said),
        ({"add_generation_prompt": True}, said + " dog"),
        ({"continue_final_message": True}, said[:-1]),
        ({"chat_template_kwargs": {"mark": "!"}}, said.replace(".", "!")),
        ({"chat_template": "{{ messages[1].content }}"}, "a dog runs"),
        ({"chat_template": "{{ messages[1].content }}", "add_special_tokens": True}, "a dog runs"),
        ({"truncate_prompt_tokens": 3}, said),
        ({"enable_chunked_processing": True}, said),
        (
            {"enable_chunked_processing": True, "chat_template": "{% for i in range(9) %}the cat runs. {% endfor %}"},
            "the cat runs. " * 9,
        ),
    ):
        marks = fields.get("add_special_tokens", False)
        same = {name: value for name, value in fields.items() if name.startswith(("truncate", "enable"))}
        tokens = given(chatty, "/tokenize", prompt=text, add_special_tokens=marks)["tokens"]
        answer = given(chatty, "/v1/embeddings", messages=MESSAGES, **fields)
        expected = given(chatty, "/v1/embeddings", input=tokens, **same)
        assert (answer["data"], answer["usage"]["prompt_tokens"]) == (
            expected["data"],
            expected["usage"]["prompt_tokens"],
        )
        if "enable_chunked_processing" not in fields:
            for task in (None, "token_embed"):
                answer = given(chatty, "/pooling", messages=MESSAGES, task=task, **fields)
                assert answer["data"] == given(chatty, "/pooling", input=tokens, task=task, **same)["data"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling"])
def test_a_conversation_is_refused_by_name(servers, chatty, path):
    told = refused(servers["embedder"], path, messages=MESSAGES)
    assert (told["param"], told["code"]) == ("messages", "no_chat_template")
    assert "give input" in told["message"]
    told = refused(servers["embedder"], path, messages=MESSAGES, chat_template="a")
    assert told["param"] == "chat_template"
    for fields, param in (
        ({"input": "a"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": LONG}]}, "messages"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.messages"),
        ({"messages": None, "input": "a", "add_generation_prompt": True}, "add_generation_prompt"),
    ):
        assert refused(chatty, path, **{"messages": MESSAGES, **fields})["param"] == param


@pytest.mark.parametrize(
    ("name", "path", "body", "told"),
    [
        ("embedder", "/v1/embeddings", {}, "input is required"),
        ("embedder", "/v1/embeddings", {"input": []}, "input: [] is not accepted"),
        ("embedder", "/v1/embeddings", {"input": ["a", ""]}, "input[1]: '' is not accepted"),
        ("embedder", "/v1/embeddings", {"input": ["a", 5]}, "input[1]: 5 is not accepted"),
        ("embedder", "/v1/embeddings", {"input": ["a", LONG]}, "input[1]: 2"),
        ("embedder", "/v1/embeddings", {"input": [[5, 96]]}, "input[1]: 96 is not accepted; token ids from 0 to 95"),
        ("embedder", "/v1/embeddings", {"input": ["a"] * 2049}, "input: '2049 texts' is not accepted; at most 2048"),
        ("embedder", "/v1/embeddings", {"input": "a", "dimensions": 49}, "dimensions: 49 is not accepted; at most 48"),
        ("embedder", "/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions: 0 is not accepted"),
        ("embedder", "/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format: 'int8'"),
        ("embedder", "/v1/embeddings", {"input": "a", "truncate_prompt_tokens": 65}, "truncate_prompt_tokens: 65"),
        (
            "embedder",
            "/v1/embeddings",
            {"input": "the cat", "truncate_prompt_tokens": 1},
            "truncate_prompt_tokens: 1 is not accepted; at least 2",
        ),
        ("embedder", "/v1/embeddings", {"input": " ", "add_special_tokens": False}, "input: ' ' is not accepted"),
        ("classifier", "/pooling", {"input": "a", "normalize": False}, "normalize: False is not accepted; none"),
        (
            "embedder",
            "/v1/embeddings",
            {"input": "a", "truncate_prompt_tokens": 9, "enable_chunked_processing": True},
            "truncate_prompt_tokens: 9 is not accepted; only without enable_chunked_processing",
        ),
        ("embedder", "/v1/embeddings", {"input": "a", "priority": 1}, "priority: 1 is not accepted"),
        ("embedder", "/v1/embeddings", {"input": "a", "temperature": 1}, "'temperature' is not a parameter"),
        ("embedder", "/pooling", {"input": "a", "task": "sing"}, "task: 'sing' is not accepted"),
        ("embedder", "/pooling", {"input": "a", "task": "classify"}, "task: 'classify' is not accepted; embed"),
        ("embedder", "/classify", {"input": "a"}, "gives embeddings: ask /v1/embeddings, /score, /rerank or /pooling"),
        ("embedder", "/v1/completions", {"prompt": "a"}, "this model generates no text: it gives embeddings"),
        ("embedder", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "generates no text"),
        ("classifier", "/v1/embeddings", {"input": "a"}, "gives scores of labels, of which it has 3: ask /classify or"),
        ("classifier", "/score", {"text_1": "a", "text_2": "b"}, "of which it has 3: ask /classify or /pooling"),
        ("crosser", "/v1/embeddings", {"input": "a"}, "of which it has 1: ask /classify, /score, /rerank or /pooling"),
        ("crosser", "/score", {"text_1": "a"}, "text_2 is required"),
        ("crosser", "/score", {"text_1": "a", "text_2": "b", "documents": "c"}, "documents: ['c'] is not accepted"),
        ("crosser", "/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1: '2 texts' is not accepted"),
        ("crosser", "/score", {"text_1": "a", "text_2": ["b", LONG]}, "text_2[1]: 284 tokens of both texts do not fit"),
        (
            "crosser",
            "/score",
            {"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 2},
            "truncate_prompt_tokens: 2 is not accepted; at least 3",
        ),
        (
            "crosser",
            "/rerank",
            {"query": "a", "documents": ["c", {"text": "b", "id": 1}]},
            "documents[1]: {'text': 'b', 'id': 1} is not accepted; a text, or an object with text and nothing else",
        ),
        ("crosser", "/rerank", {"query": "a", "documents": [{"text": 5}]}, "documents[0].text: 5 is not accepted"),
        ("crosser", "/rerank", {"query": "", "documents": ["b"]}, "query: '' is not accepted"),
        ("crosser", "/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n: -1 is not accepted"),
    ],
)
def test_what_cannot_be_given_is_refused_by_name(servers, name, path, body, told):
    assert told in refused(servers[name], path, **body)["message"]


def test_a_caller_that_leaves_leaves_nothing_behind(servers):
    server = servers["embedder"]
    with contextlib.closing(server.connect()) as talk:
        talk.send("POST", "/v1/embeddings", {"input": [[5, 6, 7] * 20] * 2048})
        until(lambda: server.front.client.status().stats.waiting)
    until(lambda: server.front.inflight == 0)
    until(lambda: not server.front.client.status().stats.pages_held)
    given(server, "/v1/embeddings", input="a")


def test_a_model_that_generates_says_how_it_gives_embeddings(tmp_path):
    folder = tiny_llama.write_folder(tmp_path, tokenizer=True)
    with served_folder(folder) as server:
        told = refused(server, "/v1/embeddings", input="a")
        assert told["message"].startswith("this model generates text; serve it with runner=pooling")
    with served_folder(folder, runner="pooling") as server, LLM(folder, runner="pooling", memory="1GiB") as llm:
        for _ in range(2):  # the second time from the prefix cache
            answer = given(server, "/v1/embeddings", input=LONG[:200])
            assert answer["data"][0]["embedding"] == llm.embed(LONG[:200], use_tqdm=False)[0].outputs.embedding
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 32
