"""Tools, calls and results as text, for templates that know none of them."""

import pytest

from octavo.core.errors import InvalidValue
from octavo.text.parsers import registry
from octavo.text.parsers.calls import Calls
from octavo.text.parsers.events import Arguments, CallBegun
from octavo.text.template import ChatTemplate
from octavo.text.told import shown, told

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "Oslo?"}


def called(arguments):
    """An assistant's message with two calls."""
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": "I look.", "tool_calls": [call, call]}


def test_tools_stand_in_the_system_message():
    [system, user] = told([{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, USER], [TOOL])
    assert system["content"].startswith("Be brief.\n\n# Tools")
    assert '{"name": "weather", "parameters": {"type": "object"}}' in system["content"]
    assert user == USER
    assert [message["role"] for message in told([USER], [TOOL])] == ["system", "user"]
    assert told([USER], []) == [USER]


def test_calls_are_text_that_is_read_as_the_same_calls():
    [_, _, said, results] = told(
        [USER, called('{"city": "Oslo"}'), *[{"role": "tool", "content": str(i)} for i in range(2)]], [TOOL]
    )
    assert said["role"] == "assistant" and "tool_calls" not in said
    events = Calls(registry.family("hermes"), {"weather": {}}).push(said["content"])
    assert [event.name for event in events if isinstance(event, CallBegun)] == ["weather"] * 2
    assert {event.text for event in events if isinstance(event, Arguments)} == {'{"city": "Oslo"}'}
    assert results["role"] == "user"
    assert results["content"] == "<tool_response>\n0\n</tool_response>\n<tool_response>\n1\n</tool_response>"


@pytest.mark.parametrize(
    ("template", "knows_tools", "knows_calls"),
    [
        ("{{ messages }}", False, False),
        ("{{ messages }}{{ messages[-1].tool_calls }}", False, True),
        ("{{ messages }}{{ tools }}{{ messages[-1].tool_calls }}", True, True),
    ],
)
def test_what_a_template_would_leave_out_is_told(template, knows_tools, knows_calls):
    made = ChatTemplate(template, bos="", eos="")
    plain = [USER, {**called("{}"), "content": None}, {"role": "tool", "content": "4"}]
    assert shown(made, [USER], None) == ([USER], None)
    assert shown(made, [USER], [TOOL]) == (([USER], [TOOL]) if knows_tools else (told([USER], [TOOL]), None))
    assert shown(made, plain, []) == (plain if knows_calls else told(plain, []), None)
    assert shown(made, plain, [TOOL]) == ((plain, [TOOL]) if knows_tools else (told(plain, [TOOL]), None))


def test_arguments_that_are_no_object_are_refused():
    with pytest.raises(InvalidValue) as caught:
        told([USER, called("[1]")], [TOOL])
    assert caught.value.field == "messages[1].tool_calls[0].function.arguments"
