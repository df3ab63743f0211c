"""What the grammars of chats allow: calls, a form behind reasoning, a form or calls; marks as text and as tokens."""

from __future__ import annotations

import json

import pytest
import tokenizers

from octavo.core.errors import UserError
from octavo.core.plan import Output
from octavo.core.request import SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.text import forced
from octavo.text.assemble import Assembler
from octavo.text.grammar import grammar_of
from octavo.text.parsers import registry
from octavo.text.tokenizer import Tokenizer
from octavo.worker.grammars import Grammars

MARKS = ("<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", *registry.thought("openai_gptoss").marks)
UP = grammar_of(StructuredOutputsParams(json={"enum": ["up"]}))
CITY = {"properties": {"city": {"$ref": "#/$defs/c"}}, "required": ["city"], "$defs": {"c": {"enum": ["Oslo"]}}}
FUNCTIONS = [("weather", CITY, "tools[0]"), ("weather_now", None, "tools[1]")]


def tokenizer(*, special):
    """One of single bytes; the marks are tokens, special ones if told so."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    add = backend.add_special_tokens if special else backend.add_tokens
    add(list(MARKS))
    return Tokenizer(backend, eos_ids=(256,))


@pytest.fixture(scope="module", params=[False, True], ids=["text", "special"])
def allows(request):
    """Whether a grammar allows a whole text; of its marks what is written depends on the tokenizer."""
    made = tokenizer(special=request.param)
    grammars = Grammars(lambda: made, made.vocab_size, (256,))

    def allowed(grammar, text):
        matcher = grammars.matcher(grammar if isinstance(grammar, str) else grammar(made.written), "x")
        return all(matcher.consume_token(token) for token in made.encode(text)) and matcher.is_accepting()

    return allowed


def test_the_marks_of_a_parser_stay_in_the_text():
    made = tokenizer(special=True)
    output = Output(id="a", tokens=made.encode("<think>é</think><end>[THINK]b<tool_call>"))
    kept = made.marks(["<think>", "</think>", "<tool_call>", "é"])
    assert Assembler(made, SamplingParams(), (), kept).push(output).text == "<think>é</think>b<tool_call>"
    assert Assembler(made, SamplingParams()).push(output).text == "éb"


def test_calls(allows):
    one, two = '{"name":"weather","parameters":{"city":"Oslo"}}', '{"name":"weather_now","parameters":{}}'
    for several in (False, True):
        calls = forced.of_calls(FUNCTIONS, several=several)
        assert allows(calls, f"[{one}]")
        assert allows(calls, f"[{two}]")
        assert allows(calls, f"[{one},{two}]") == several
        for text in ("[]", f"[{one}", f"[{one}]".replace("Oslo", "Rome"), f"[{two}]".replace("{}", '{"a":1}')):
            assert not allows(calls, text)


@pytest.mark.parametrize(
    ("name", "state", "text", "allowed"),
    [
        ("qwen3", "inside", 'hm <b>\n"up</think>\n\n"up"', True),
        ("qwen3", "inside", '"up"', False),
        ("qwen3", "inside", "hm</think>down", False),
        ("qwen3", "before", '<think>hm</think>"up"', True),
        ("qwen3", "before", '"up"', True),
        ("qwen3", "before", 'hm</think>"up"', False),
        ("qwen3", "after", '"up"', True),
        ("qwen3", "after", '<think>hm</think>"up"', False),
        ("mistral", "before", '[THINK]hm[/THINK]"up"', True),
        ("granite", "before", 'Here is my thought process: hm Here is my response: "up"', True),
    ],
)
def test_a_form_behind_reasoning(allows, name, state, text, allowed):
    thought = registry.thought(name)
    assert allows(lambda written: forced.behind(UP, thought.rules(state, written)), text) == allowed


def test_a_form_or_calls_behind_reasoning(allows):
    def grammar(written):
        either = forced.or_calls(UP, ["<tool_call>"], written)
        return forced.behind(either, registry.thought("qwen3").rules("before", written))

    for text, allowed in (
        ('"up"', True),
        ("<tool_call>any{", True),
        ("<think>a</think><tool_call>b", True),
        ("c", False),
    ):
        assert allows(grammar, text) == allowed


def test_a_form_in_the_last_channel():
    harmony = registry.thought("openai_gptoss")
    made = tokenizer(special=True)
    grammars = Grammars(lambda: made, made.vocab_size, (256,))
    think, answer = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant", '<|channel|>final<|message|>"up"'
    for state, text, allowed in (
        ("before", think + think + answer, True),
        ("before", answer, True),
        ("before", '"up"', False),
        ("before", answer.replace("up", "down"), False),
        ("inside", "hm<|end|><|start|>assistant" + answer, True),
        ("after", '"up"', True),
    ):
        matcher = grammars.matcher(forced.behind(UP, harmony.rules(state, made.written)), "x")
        assert (all(matcher.consume_token(token) for token in made.encode(text)) and matcher.is_accepting()) == allowed


def test_arguments_are_an_object():
    for kind in ("string", ["string", "null"], None):
        with pytest.raises(UserError) as caught:
            forced.of_calls([("f", {"type": kind}, "tools[0].function.parameters")], several=True)
        assert caught.value.field == "tools[0].function.parameters.type"
    nullable = forced.of_calls([("f", {"type": ["object", "null"]}, "x")], several=False)
    assert json.loads(nullable)["grammars"][1]["json_schema"]["type"] == "object"
    assert json.loads(forced.of_calls(FUNCTIONS, several=True))["grammars"][1]["json_schema"]["type"] == "object"
