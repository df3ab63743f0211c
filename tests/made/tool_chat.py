"""Chats with tools: a template that shows them, and one answer as the official client reads it, whole and streamed."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
TEMPLATE = """{%- for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
<|im_end|>{% endfor %}{% if reasoning_effort is defined %}{{ reasoning_effort }}{% endif %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
MESSAGES = [{"role": "user", "content": "Oslo?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "time")
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Osloé"}}\n</tool_call>'


def joined(chunks):
    """A streamed answer as (reasoning, content, calls, finish)."""
    thought, said, made, finish = "", "", {}, None
    for chunk in chunks:
        [choice] = chunk.choices
        delta = choice.delta
        thought += getattr(delta, "reasoning_content", None) or ""
        said += delta.content or ""
        finish = choice.finish_reason or finish
        for part in delta.tool_calls or []:
            if part.index not in made:
                assert part.type == "function" and part.id
                made[part.index] = [part.function.name, ""]
            made[part.index][1] += part.function.arguments or ""
    return thought, said, [tuple(call) for call in made.values()], finish


def both(client, **asked):
    """The same answer whole and streamed, as in `joined`."""
    asked = {"model": "tiny", "messages": MESSAGES} | asked
    [choice] = client.chat.completions.create(**asked).choices
    message = choice.message
    made = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    thought = getattr(message, "reasoning_content", None)
    assert getattr(message, "reasoning", None) == thought
    whole = (thought or "", message.content or "", made, choice.finish_reason)
    assert joined(client.chat.completions.create(**asked, stream=True)) == whole
    return whole
