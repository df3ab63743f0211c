"""Bodies to checked requests: what is refused, under which name, and that everything else says what it said."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.errors import UserError
from octavo.core.request import SamplingParams
from octavo.protocol.chat import NEUTRAL_CHAT, ChatRequest, conversation
from octavo.protocol.completions import NEUTRAL_COMPLETION, CompletionRequest
from octavo.protocol.errors import body_of, error_body
from octavo.protocol.generation import NEUTRAL_GENERATION
from octavo.protocol.tokens import DetokenizeRequest, TokenizeRequest
from octavo.protocol.wire import decode, read

MESSAGES = [{"role": "user", "content": "Hello"}]


def completion(**fields):
    asked = read(CompletionRequest, {"prompt": "Hello"} | fields, NEUTRAL_COMPLETION)
    return asked, asked.sampling()


def chat(**fields):
    asked = read(ChatRequest, {"messages": MESSAGES} | fields, NEUTRAL_CHAT)
    return asked, asked.sampling(), conversation(asked.messages)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1,}', "column"),
        (b"[1]", "JSON object"),
        (b"null", "JSON object"),
        (b'{"a": "\xff"}', "UTF-8 at byte 7"),
        (b'\xff\xfe{\x00"\x00', "UTF-8 at byte 0"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
        (b'{"a": ' + b"[" * 200_000, "too deeply"),
        (b'{"a": ' + b'{"a":' * 200_000, "too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": "\x01"}', "column"),
        (b'{"a": 01}', "column"),
    ],
)
def test_bodies_that_are_not_one_json_object_are_refused_with_the_place(body, said):
    with pytest.raises(UserError) as caught:
        decode(body)
    assert said in str(caught.value)
    assert caught.value.status == 400


ANYWHERE = [  # field, value: refused by both endpoints, under the field's own name
    ("temperature", "hot"),
    ("temperature", True),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", 1e308),
    ("temperature", []),
    ("top_p", 0),
    ("top_p", 1.5),
    ("top_k", -2),
    ("top_k", 1.5),
    ("top_k", 2**31),
    ("min_p", -1),
    ("min_p", float("nan")),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("repetition_penalty", 0),
    ("n", 0),
    ("n", 129),
    ("n", 1e3),
    ("n", 2**64),
    ("n", 10**400),
    ("seed", "1"),
    ("seed", 2**63),
    ("max_tokens", -1),
    ("max_tokens", 2**31),
    ("max_tokens", "16"),
    ("min_tokens", -1),
    ("min_tokens", 2**31),
    ("stop", 5),
    ("stop", ""),
    ("stop", [""]),
    ("stop", ["a", 1]),
    ("stop", ["x"] * 17),
    ("stop", "x" * 1025),
    ("stop", "\ud800"),
    ("stop_token_ids", "1"),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [2**31]),
    ("stop_token_ids", [1] * 1025),
    ("logit_bias", [1]),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"١": 1}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {"1": float("nan")}),
    ("logit_bias", {str(i): 1 for i in range(1025)}),
    ("logit_bias", {"1" * 5000: 1}),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [-1]),
    ("allowed_token_ids", [True]),
    ("bad_words", "a"),
    ("bad_words", [""]),
    ("bad_words", [" "]),
    ("bad_words", ["a" * 257]),
    ("bad_words", ["a"] * 1025),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("truncate_prompt_tokens", 2**64),
    ("request_id", ""),
    ("request_id", "a\r\nb"),
    ("request_id", "a" * 129),
    ("deadline_ms", 0),
    ("deadline_ms", 1e3),
    ("typical_p", 0),
    ("typical_p", 1.1),
    ("top_n_sigma", -2),
    ("xtc_probability", 1.1),
    ("xtc_threshold", -0.1),
    ("dry_multiplier", -1),
    ("dry_base", 0.5),
    ("dry_allowed_length", -1),
    ("dry_penalty_last_n", -2),
    ("dry_sequence_breakers", []),
    ("dry_sequence_breakers", [""]),
    ("dry_sequence_breakers", ["a"] * 65),
    ("mirostat", 3),
    ("mirostat_tau", -1),
    ("mirostat_eta", 2),
    ("dynatemp_range", -1),
    ("dynatemp_exponent", 101),
    ("repeat_last_n", -2),
    ("repeat_penalty", 0),
    ("samplers", []),
    ("samplers", ["penalties"]),
    ("samplers", ["top_k", "dry"]),
    ("samplers", ["dry", "penalties", "top_k"]),
    ("samplers", ["top_a"]),
    ("samplers", "top_k"),
    ("logits_processors", ["favour"]),
    ("logits_processors", {"favour": 5}),
    ("logits_processors", {str(n): {} for n in range(17)}),
    ("use_beam_search", "yes"),
    ("length_penalty", 2.0),
    ("length_penalty", 101),
    ("logprob_token_ids", [1]),  # without logprobs
    ("return_tokens_as_token_ids", "yes"),
    ("skip_reading_prefix_cache", 1),
    ("cache_prompt", "no"),
    ("repetition_detection", {"max_pattern_size": 1025, "min_count": 2}),
    ("repetition_detection", {"max_pattern_size": 3, "min_pattern_size": 4, "min_count": 2}),
    ("repetition_detection", {"max_pattern_size": 3, "min_count": 1}),
    ("repetition_detection", {"max_pattern_size": 3}),
    ("repetition_detection", {"max_pattern": 3}),
    ("repetition_detection", 3),
    ("vllm_xargs", {"a": 1}),
    ("spaces_between_special_tokens", False),
    *((name, "on") for name in NEUTRAL_GENERATION),
    ("stream", "yes"),
    ("stream", 1),
    ("stream_options", {"include_usage": True}),  # without stream
    ("ignore_eos", 1),
    ("prompt_logprobs", 21),
    ("prompt_logprobs", -1),
    ("priority", 2**40),
    ("priority", 0.5),
    ("cache_salt", ""),
    ("cache_salt", "s" * 257),
    ("cache_salt", 1),
    ("user", 1),
    ("cache_salt", "\ud800"),
    ("metadata", {"a": 1}),
    ("model", 1),
    ("temprature", 1.0),
    ("best_off", None),
]


@pytest.mark.parametrize(("field", "value"), ANYWHERE, ids=lambda value: str(value)[:20])
def test_a_bad_value_is_refused_under_the_name_of_its_field(field, value):
    for ask in (completion, chat):
        with pytest.raises(UserError) as caught:
            ask(**{field: value})
        assert caught.value.field.split(".")[0].split("[")[0] == field
        status, body = body_of(caught.value)
        assert status == 400
        error = json.loads(body)["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"].startswith(field)
        assert field in error["message"]
        assert len(body) < 1500


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt[0]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [1, 2.0]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[1], [2, -3]]}, "prompt[1][1]"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a\udc00b"}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 1, "logprob_token_ids": [1, 1]}, "logprob_token_ids"),
        ({"logprobs": 1, "logprob_token_ids": list(range(129))}, "logprob_token_ids"),
        ({"logprobs": 1, "logprob_token_ids": [-1]}, "logprob_token_ids"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "min_tokens": 2}, "min_tokens"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 3, "best_of": 5, "use_beam_search": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"echo": True, "logprobs": 1, "deadline_ms": 5}, "deadline_ms"),
        ({"suffix": 5}, "suffix"),
        ({"suffix": "\ud800"}, "suffix"),
        ({"suffix": "end", "echo": True}, "echo"),
        ({"suffix": "end", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"messages": MESSAGES}, "messages"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"prompt_embeds": "gASVAAAA"}, "prompt_embeds"),
    ],
)
def test_what_completions_refuse(fields, param):
    with pytest.raises(UserError) as caught:
        completion(**fields)
    assert caught.value.field == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "a", "mood": "good"}]}, "messages[0].mood"),
        ({"messages": [*MESSAGES, {"role": "user", "content": "\udfff"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "a", "name": "\udfff"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"messages": MESSAGES * 4097}, "messages"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template": ""}, "chat_template"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "text", "strict": True}}, "response_format.strict"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "text", "json_schema": {"schema": {}}}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "grammar": "start: A"}, "grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"schema": {}}}, "structured_outputs.schema"),
        ({"grammar": ""}, "grammar"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"prediction": {"type": "content"}}, "prediction"),
        ({"reasoning_effort": "lots"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"store": 0}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs.a b"),
        ({"prompt": "Hello"}, "prompt"),
        ({"echo": True}, "echo"),
        ({"mm_processor_kwargs": {"num_crops": 1 << 30}}, "mm_processor_kwargs"),
        *(
            (
                {"messages": [{"role": "user", "content": [{"type": kind, kind: {"url": "http://127.0.0.1:9/x"}}]}]},
                "messages[0].content[0].type",
            )
            for kind in ("image_url", "video_url", "audio_url", "input_audio", "file", "image_embeds")
        ),
    ],
)
def test_what_chat_refuses(fields, param):
    with pytest.raises(UserError) as caught:
        chat(**fields)
    assert caught.value.field == param


def test_neutral_values_and_labels_change_nothing():
    plain = chat()[1]
    neutral = {name: value for name, values in NEUTRAL_CHAT.items() for value in values}
    labels = {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"}
    assert chat(**neutral, **labels)[1] == plain
    assert chat(**dict.fromkeys([*NEUTRAL_CHAT, *labels]))[1] == plain
    everything = dict.fromkeys(name for name in ChatRequest.model_fields if name != "messages")
    assert chat(**everything)[1] == plain  # null is "not given"


def test_what_was_asked_arrives():
    fields = {
        "n": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": -100, "7": 2.5},
        "seed": -3,
        "stop": ["a", "b"],
        "stop_token_ids": [1, 2],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "min_tokens": 2,
        "max_tokens": 9,
        "prompt_logprobs": 3,
        "skip_special_tokens": False,
    }
    expected = SamplingParams(**fields | {"logit_bias": {5: -100.0, 7: 2.5}, "logprobs": 4})
    assert completion(**fields, logprobs=4, best_of=3)[1] == expected
    assert chat(**fields, logprobs=True, top_logprobs=4)[1] == expected
    assert chat(max_completion_tokens=7)[1].max_tokens == 7
    assert chat(logprobs=True)[1].logprobs == 0


def test_defaults_are_those_of_the_openai_api():
    for sampling in (completion()[1], chat()[1]):
        assert sampling == SamplingParams(max_tokens=None)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["one", "\U0001f600"], ["one", "\U0001f600"]),
    ],
)
def test_the_four_forms_of_a_prompt(prompt, prompts):
    assert completion(prompt=prompt)[0].prompt == prompts


def test_scoring_needs_echo():
    asked, sampling = completion(max_tokens=0, echo=True, logprobs=2)
    assert asked.max_tokens == 0
    assert (sampling.max_tokens, sampling.logprobs, sampling.prompt_logprobs) == (None, 2, 2)
    assert completion(echo=True, logprobs=2, prompt_logprobs=5)[1].prompt_logprobs == 5


def test_a_conversation_becomes_plain_messages():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "assistant", "content": None, "reasoning_content": "r", "reasoning": "r", "tool_calls": None},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]
    assert chat(messages=messages)[2] == [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "", "reasoning_content": "r", "reasoning": "r", "thinking": "r"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]


def test_tokenize_takes_a_prompt_or_messages():
    read(TokenizeRequest, {"prompt": ""}).check()
    read(TokenizeRequest, {"messages": MESSAGES}).check()
    for data, param in (({}, "prompt"), ({"prompt": "a", "messages": MESSAGES}, "messages")):
        with pytest.raises(UserError) as caught:
            read(TokenizeRequest, data).check()
        assert caught.value.field == param
    assert read(DetokenizeRequest, {"tokens": []}).tokens == []
    for tokens in ("abc", [1, -1], [1.0], None):
        with pytest.raises(UserError) as caught:
            read(DetokenizeRequest, {"tokens": tokens})
        assert caught.value.field.startswith("tokens")


def test_an_error_body_is_short_valid_utf8_and_tells_nothing_of_faults():
    error = json.loads(error_body(400, "\ud800" + "x" * 5000, "p" * 5000))["error"]
    assert len(error["message"]) == 1000
    assert len(error["param"]) == 200
    assert error["message"].startswith("\\ud800")
    status, body = body_of(RuntimeError("/root/secret 0x7f00"))
    assert status == 500
    assert b"secret" not in body
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = sorted({*CompletionRequest.model_fields, *ChatRequest.model_fields, *NEUTRAL_CHAT, "unknown"})


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_object_is_a_whole_request_or_an_error_that_can_be_sent(data):
    body = json.dumps(data).encode()
    for ask in (completion, chat):
        try:
            assert isinstance(ask(**decode(body))[1], SamplingParams)
        except UserError as error:
            status, answer = body_of(error)
            assert 400 <= status < 500
            assert msgspec.json.decode(answer)["error"]["message"]
