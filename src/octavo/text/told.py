"""Tools for chat templates that show none: told in the system message, calls and results as text between tags.

Invariant: the messages hold no tools afterwards, so any template takes them. Calls have the form that parser `hermes`
reads. Knows no request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from octavo.text.template import ChatTemplate, plain_text, with_arguments

WORDS = """# Tools

You may call these functions, each a line of JSON:

<tools>
{tools}
</tools>

To call one, write nothing but a JSON object with its name and arguments between tags, one pair of tags for each call:

<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>

The results come between <tool_response> tags. If no function helps, answer without."""


def shown(
    template: ChatTemplate, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages and tools as the template takes them: told, where it would leave them out. Raises InvalidValue."""
    lost = tools or (not template.shows_calls and any(message.get("tool_calls") for message in messages))
    if lost and "tools" not in template.variables:
        return told(messages, tools or ()), None
    return messages, list(tools) if tools else None


def told(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the tools in the first of the system's, or in one of its own. Raises InvalidValue."""
    made: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        plain = _plain(message, f"messages[{place}]")
        if plain["role"] == "user" and made and message["role"] == "tool" and messages[place - 1]["role"] == "tool":
            made[-1] = {"role": "user", "content": made[-1]["content"] + "\n" + plain["content"]}
        else:
            made.append(plain)
    if not tools:
        return made
    words = WORDS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if made[0]["role"] == "system":
        return [{**made[0], "content": f"{plain_text(made[0]['content'])}\n\n{words}"}, *made[1:]]
    return [{"role": "system", "content": words}, *made]


def _plain(message: dict[str, Any], field: str) -> dict[str, Any]:
    """A message without calls, and not of a tool."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{plain_text(message.get('content'))}\n</tool_response>"}
    calls = with_arguments(message, spelled=False, field=field).get("tool_calls", ())
    if not calls:
        return message
    written = (json.dumps(call["function"], ensure_ascii=False) for call in calls)
    parts = [plain_text(message.get("content")), *(f"<tool_call>\n{call}\n</tool_call>" for call in written)]
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(part for part in parts if part)}
