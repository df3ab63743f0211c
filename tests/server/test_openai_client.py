"""The official client against a real server: shapes, streams equal to whole answers, choices, log-probabilities."""

import openai
import pytest
import tiny_llama
from scripted_engine import VOCAB, ScriptedEngine, scripted
from served import served, until
from text_vocab import spm

from octavo.checkpoint.source import open_source
from octavo.text.tokenizer import load_tokenizer

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, wörld"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine()


@pytest.fixture(scope="module")
def client(engine, tokenizer):
    with (
        served(engine, lambda: tokenizer) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made,
    ):
        until(server.front.ready)
        yield made


def merged(chunks):
    """A streamed answer as (text by choice, finish by choice, logprob entries by choice)."""
    text, finish, logprobs = {}, {}, {}
    for chunk in chunks:
        for choice in chunk.choices:
            content = choice.text if hasattr(choice, "text") else choice.delta.content
            text[choice.index] = text.get(choice.index, "") + (content or "")
            assert choice.index not in finish, "something follows the end"
            if choice.finish_reason is not None:
                finish[choice.index] = choice.finish_reason
            if choice.logprobs is not None:
                logprobs.setdefault(choice.index, []).append(choice.logprobs)
    return text, finish, logprobs


def test_models_are_listed_under_all_their_names(client):
    assert [model.id for model in client.models.list()] == ["tiny", "also-tiny"]
    assert client.models.retrieve("also-tiny").id == "also-tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")


def test_a_completion(client, engine, tokenizer):
    answer = client.completions.create(model="tiny", prompt="Hello", max_tokens=20, seed=5)
    tokens = scripted(engine.requests[-1])[:20]
    assert engine.requests[-1].prompt == tokenizer.encode("Hello")
    assert engine.requests[-1].seed == 5
    assert answer.choices[0].text == tokenizer.decode(tokens)
    assert answer.choices[0].finish_reason == "length"
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(tokenizer.encode("Hello")), 20)
    assert usage.total_tokens == usage.prompt_tokens + 20
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_completions_give_16_tokens_and_chats_as_many_as_fit(client, engine):
    assert client.completions.create(model="tiny", prompt="a").usage.completion_tokens == 16
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.usage.total_tokens == 512
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens // 32 * 32


def test_a_chat_is_rendered_in_the_template(client, engine, tokenizer):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=5)
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)
    assert engine.requests[-1].prompt == tokenizer.encode(turns + "<|im_start|>assistant\n", special=False)
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", tokenizer.decode(scripted(engine.requests[-1])[:5]))
    assert answer.system_fingerprint.startswith("octavo-")
    extra = {"add_generation_prompt": False}
    client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1, extra_body=extra)
    assert engine.requests[-1].prompt == tokenizer.encode(turns, special=False)


def test_a_developer_speaks_as_the_system_and_parts_are_joined(client, engine):
    said = [{"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]}]
    client.chat.completions.create(model="tiny", messages=said, max_tokens=1)
    prompt = engine.requests[-1].prompt
    client.chat.completions.create(model="tiny", messages=[{"role": "system", "content": "Be\nbrief."}], max_tokens=1)
    assert engine.requests[-1].prompt == prompt


@pytest.mark.parametrize("stop", [None, "e", ["zzz", "ing"]])
@pytest.mark.parametrize("n", [1, 3])
def test_a_streamed_completion_equals_the_whole_one(client, n, stop):
    fields = {"model": "tiny", "prompt": ["One", "Two words"], "max_tokens": 60, "seed": 3, "n": n, "logprobs": 2}
    whole = client.completions.create(**fields, stop=stop)
    options = {"include_usage": True}
    chunks = list(client.completions.create(**fields, stop=stop, stream=True, stream_options=options))
    text, finish, logprobs = merged(chunks)
    assert [choice.index for choice in whole.choices] == list(range(2 * n))
    for choice in whole.choices:
        assert text[choice.index] == choice.text
        assert finish[choice.index] == choice.finish_reason
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [item for entry in logprobs[choice.index] for item in getattr(entry, field)]
            assert joined == getattr(choice.logprobs, field)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id} != {whole.id}


@pytest.mark.parametrize("n", [1, 3])
def test_a_streamed_chat_equals_the_whole_one(client, n):
    fields = {"model": "tiny", "messages": MESSAGES, "max_tokens": 60, "seed": 3, "n": n}
    fields |= {"logprobs": True, "top_logprobs": 3, "extra_body": {"return_token_ids": True}}
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True))
    text, finish, logprobs = merged(chunks)
    for choice in whole.choices:
        assert text[choice.index] == choice.message.content
        assert finish[choice.index] == choice.finish_reason
        assert [e for entry in logprobs[choice.index] for e in entry.content] == choice.logprobs.content
        first = next(c for chunk in chunks for c in chunk.choices if c.index == choice.index)
        assert (first.delta.role, first.delta.content) == ("assistant", "")
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert [token for c in own for token in getattr(c, "token_ids", ())] == choice.token_ids
    assert chunks[0].prompt_token_ids == whole.prompt_token_ids
    assert len({choice.message.content for choice in whole.choices}) == n  # each choice has a seed of its own


def test_choices_have_the_seeds_that_follow(client, engine):
    fields = {"model": "tiny", "prompt": "seeds", "max_tokens": 8}
    three = client.completions.create(**fields, seed=10, n=3)
    alone = [client.completions.create(**fields, seed=10 + k).choices[0].text for k in range(3)]
    assert [choice.text for choice in three.choices] == alone
    client.completions.create(**fields, seed=2**63 - 1, n=2)
    assert [request.seed for request in engine.requests[-2:]] == [2**63 - 1, -(2**63)]
    client.completions.create(**fields)
    client.completions.create(**fields)
    assert engine.requests[-1].seed != engine.requests[-2].seed
    for _ in range(2):
        client.completions.create(**fields, seed=-1)
    assert engine.requests[-1].seed != engine.requests[-2].seed


def test_engine_ids_are_ours_whatever_the_caller_says(client, engine):
    before = len(engine.requests)
    for _ in range(3):
        client.completions.create(model="tiny", prompt="a", n=2, extra_headers={"x-request-id": "same"})
    assert len({request.id for request in engine.requests[before:]}) == 6


def test_logprobs_of_a_chat(client, tokenizer, engine):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=30, logprobs=True, top_logprobs=2
    )
    tokens = scripted(engine.requests[-1])[:30]
    content = answer.choices[0].logprobs.content
    assert [bytes(entry.bytes) for entry in content] == [tokenizer.token_bytes(token) for token in tokens]
    joined = b"".join(bytes(entry.bytes) for entry in content)
    assert joined.decode(errors="replace") == answer.choices[0].message.content
    assert all(len(entry.top_logprobs) == 2 and entry.logprob == -2.0 for entry in content)
    assert all(entry.top_logprobs[1].token == entry.token for entry in content)
    partial = [entry for entry in content if entry.token.startswith("\\x")]
    assert partial and all(entry.token == "".join(f"\\x{byte:02x}" for byte in entry.bytes) for entry in partial)
    none = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2, logprobs=True)
    assert [entry.top_logprobs for entry in none.choices[0].logprobs.content] == [[], []]


def test_logprobs_of_a_completion(client):
    answer = client.completions.create(model="tiny", prompt="abc", max_tokens=30, logprobs=1)
    shape, text = answer.choices[0].logprobs, answer.choices[0].text
    assert len(shape.tokens) == len(shape.token_logprobs) == len(shape.text_offset) == 30
    begun = [offset for token, offset in zip(shape.tokens, shape.text_offset, strict=True) if len(token) == 1]
    assert len(begun) >= 5
    for token, offset in zip(shape.tokens, shape.text_offset, strict=True):
        if len(token) == 1:  # a whole character, before which a broken one may end
            assert text[offset:].removeprefix("\ufffd").startswith(token)
    assert all(set(top) >= {token} for token, top in zip(shape.tokens, shape.top_logprobs, strict=True))


@pytest.mark.parametrize("prompt", ["Hello wörld", [75, 104, 111, 260]])
def test_echo(client, tokenizer, engine, prompt):
    fields = {"model": "tiny", "prompt": prompt, "echo": True, "max_tokens": 4, "logprobs": 1, "seed": 1}
    whole = client.completions.create(**fields)
    choice, ids = whole.choices[0], engine.requests[-1].prompt
    text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
    assert choice.text == text + tokenizer.decode(scripted(engine.requests[-1])[:4])
    assert len(choice.logprobs.tokens) == len(ids) + 4
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == [-2.0] * (len(ids) + 3)
    assert choice.logprobs.text_offset[len(ids)] == len(text)
    streamed, _, logprobs = merged(client.completions.create(**fields, stream=True))
    assert streamed[0] == choice.text
    assert [token for entry in logprobs[0] for token in entry.tokens] == choice.logprobs.tokens


def test_offsets_of_an_echo_count_the_special_tokens_that_were_written(client):
    prompt = "<|im_start|>Hello<|im_end|>wide"
    fields = {"model": "tiny", "prompt": prompt, "echo": True, "max_tokens": 2, "logprobs": 0, "seed": 1}
    shape = client.completions.create(**fields).choices[0].logprobs
    for token, offset in list(zip(shape.tokens, shape.text_offset, strict=True))[:-2]:
        assert prompt.startswith(token, offset)
    assert shape.text_offset[-2] == len(prompt)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize(("prompt", "said"), [([1, 317], " ingis "), ([1], "ingis ")], ids=["text", "mark"])
def test_offsets_count_the_space_that_an_answer_begins_with(prompt, said, echo):
    pieces, ids = [" i", "ng", "is "], [267, 313, 293]
    with served(ScriptedEngine(lambda request: ids), spm) as server:
        until(server.front.ready)
        answer = server.post("/v1/completions", prompt=prompt, logprobs=0, max_tokens=3, echo=echo).json
    [choice] = answer["choices"]
    assert choice["text"].endswith(said)
    begin = len(choice["text"]) - len(said)
    assert choice["logprobs"]["tokens"][-3:] == pieces
    assert choice["logprobs"]["text_offset"][-3:] == [begin, begin + len(said) - 5, begin + len(said) - 3]


def test_scoring_a_prompt_generates_nothing(client):
    answer = client.completions.create(model="tiny", prompt="Hello", echo=True, max_tokens=0, logprobs=0)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == ("Hello", "length", 0)
    assert len(choice.logprobs.tokens) == answer.usage.prompt_tokens


def test_prompt_logprobs(client, engine):
    extra = {"prompt_logprobs": 1}
    answer = client.completions.create(model="tiny", prompt="Hello", max_tokens=1, extra_body=extra)
    prompt = engine.requests[-1].prompt
    first, *others = answer.choices[0].prompt_logprobs
    assert first is None
    for token, figures in zip(prompt[1:], others, strict=True):
        assert figures[str(token)]["rank"] == 2
        assert figures[str((token + 1) % VOCAB)]["rank"] == 1
    chat = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1, extra_body=extra)
    assert len(chat.prompt_logprobs) == chat.usage.prompt_tokens


def test_stop_strings_end_the_text_and_give_up_the_sequence(client, engine, tokenizer):
    text = client.completions.create(model="tiny", prompt="stop here", max_tokens=60, temperature=0).choices[0].text
    stop = text[10:12]
    answer = client.completions.create(model="tiny", prompt="stop here", max_tokens=60, temperature=0, stop=stop)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == (text[: text.index(stop)], "stop", stop)
    assert answer.usage.completion_tokens < 60
    assert engine.given_up[-1] == engine.requests[-1].id
    extra = {"include_stop_str_in_output": True}
    kept = client.completions.create(
        model="tiny", prompt="stop here", max_tokens=60, temperature=0, stop=stop, extra_body=extra
    )
    assert kept.choices[0].text == choice.text + stop


def test_continuous_usage_counts_up(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    fields = {"model": "tiny", "max_tokens": 6, "stream": True, "stream_options": options}
    for chunks in (
        client.completions.create(prompt="a", **fields),
        client.chat.completions.create(messages=MESSAGES, **fields),
    ):
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        assert counts == sorted(counts)
        assert counts[-1] == 6


def test_parameters_reach_the_engine(client, engine):
    extra = {"top_k": 7, "min_p": 0.1, "cache_salt": "mine", "ignore_eos": True, "min_tokens": 2}
    client.completions.create(
        model="tiny", prompt="a", max_tokens=3, logit_bias={"5": 3}, frequency_penalty=0.5, extra_body=extra
    )
    request = engine.requests[-1]
    sampling = request.sampling
    assert (sampling.top_k, sampling.min_p, sampling.ignore_eos, sampling.min_tokens) == (7, 0.1, True, 2)
    assert (sampling.logit_bias, sampling.frequency_penalty, request.salt) == ({5: 3.0}, 0.5, "mine")
    assert (sampling.n, request.eos_ids) == (1, [2])
