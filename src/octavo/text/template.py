"""Chat templates: from messages to the prompt a model was trained on.

Owns the template of one model, compiled once, and the form in which it is given the messages. The invariant: the result
equals transformers' `apply_chat_template` for the same input, or there is an error; never a prompt cut short. The
template is untrusted code, see sandbox.py for what it may do. Does not know tokens, or which model it serves.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from octavo.core.errors import InvalidValue, ModelError, UserError

if TYPE_CHECKING:
    from jinja2 import nodes

    from octavo.text.tokenizer import Tokenizer

MAX_TEMPLATE = 256 << 10  # characters
SHOWN = 500  # characters of an error's text that are passed on
MARK = "CONTINUE_FINAL_MESSAGE_TAG "  # behind a message that stays open; transformers' own, which some templates know


class ChatTemplate:
    """A compiled template. bos, eos: the texts of these tokens. Raises ModelError if it cannot be compiled.

    What a message's content is given as follows one rule. If the template loops over content (over `.content`, over
    something set to it, or over something named content), a list of parts stays a list; and a string becomes a list of
    one part, unless the template asks whether something `is string`. Otherwise the texts of a list are joined with
    newlines, as vLLM does. Only parts of type "text" are taken: octavo serves no images or sound.

    The arguments of a call in `tool_calls` are given as an object, or as its JSON to a template that would write an
    object's Python text or fails on one. `variables`: the names the template asks for; `shows_calls`: whether it shows
    `tool_calls`.

    Thread-safe. Jinja is imported when the first template is made.
    """

    def __init__(self, template: str, *, bos: str, eos: str) -> None:
        from jinja2 import TemplateSyntaxError, nodes

        from octavo.text.sandbox import Sandbox

        if len(template) > MAX_TEMPLATE:
            raise ModelError(f"chat template: {len(template)} characters are more than the {MAX_TEMPLATE} accepted")
        self.shows_calls = "tool_calls" in template
        self._special = {"bos_token": bos, "eos_token": eos}
        self._sandbox = Sandbox()
        self._reserved = frozenset(self._sandbox.globals) | frozenset(self._special)
        try:
            tree = self._sandbox.parse(template)
            for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
                raise ModelError(f"chat template, line {node.lineno}: other templates cannot be read")
            self._loops = _loops_over_content(tree)
            self._asks = any(test.name == "string" for test in tree.find_all(nodes.Test))
            self._spelled: bool | None = None  # whether arguments are given as JSON; None: not tried yet
            self.variables = frozenset(node.name for node in tree.find_all(nodes.Name) if node.ctx == "load")
            self._template = self._sandbox.from_string(tree)
        except TemplateSyntaxError as error:
            raise ModelError(f"chat template, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError) as error:  # nested too deeply, or not Unicode
            raise ModelError(f"chat template: cannot be compiled: {error}") from error

    @staticmethod
    def of(tokenizer: Tokenizer, template: str) -> ChatTemplate:
        """A template, the tokenizer's own or another, with the marks of the tokenizer."""
        bos = "" if tokenizer.bos_id is None else tokenizer.token_text(tokenizer.bos_id)
        eos = tokenizer.token_text(tokenizer.eos_ids[0]) if tokenizer.eos_ids else ""
        return ChatTemplate(template, bos=bos, eos=eos)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[Any] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for these messages. variables: what else the template may ask for, such as `documents`.

        Raises UserError: with the words of the template's author if the template refuses the messages, else saying what
        it stumbled over or of which limit (sandbox.py) it took too much.
        """
        from octavo.text.budget import Exceeded
        from octavo.text.sandbox import Raised

        if not messages:
            raise InvalidValue("messages", messages, "at least one message")
        for name in variables:
            if name in self._reserved or name.startswith("_"):
                raise InvalidValue("chat_template_kwargs", name, "a name the chat template does not already use")
        given = {"messages": self._shaped(messages), "tools": tools, **variables}
        given.setdefault("documents", None)
        try:
            self._sandbox.start(given.values())
            return self._template.render({**given, "add_generation_prompt": add_generation_prompt, **self._special})
        except Raised as error:
            raise UserError(f"messages: {_shown(error)}", "messages") from error
        except Exceeded as error:
            raise UserError(f"messages: the chat template cannot be rendered: {error}", "messages") from error
        except Exception as error:  # the template is code: anything can go wrong in it
            kind = type(error).__name__
            raise UserError(
                f"messages: the chat template fails on them: {kind}: {_shown(error)}", "messages"
            ) from error

    def render_open(self, messages: list[dict[str, Any]], **given: Any) -> str:
        """As `render`, up to the end of the last message's content, which an answer goes on with. Raises UserError."""
        said = _last_text(messages)
        text = self.render(_marked(messages), **given)
        end = text.rfind(MARK.rstrip())
        if not said or end < 0 or said not in text:
            raise UserError(
                "continue_final_message: the chat template does not write the last message's content as it is",
                "continue_final_message",
                "invalid_value",
            )
        kept = text[:end]
        return kept if text.startswith(MARK, end) else kept.rstrip()  # the template takes spaces off the end

    def _shaped(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with their content as the template expects it."""
        shaped = [
            {**message, "content": self._content(message["content"], f"messages[{i}].content")}
            if "content" in message
            else message
            for i, message in enumerate(messages)
        ]
        if any(message.get("tool_calls") for message in shaped):
            spelled = self._wants_json()
            shaped = [
                with_arguments(message, spelled=spelled, field=f"messages[{i}]") for i, message in enumerate(shaped)
            ]
        return shaped

    def _wants_json(self) -> bool:
        """Whether the template wants a call's arguments as JSON text: tried once."""
        if self._spelled is None:
            given, text = (self._tried(spelled=spelled) for spelled in (False, True))
            self._spelled = text is not None and (given is None or "'octavo'" in given)
        return self._spelled

    def _tried(self, *, spelled: bool) -> str | None:
        """A conversation with a call whose arguments are given in this form; None where it cannot be rendered."""
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"octavo": "x"}}}
        messages = [
            {"role": "user", "content": self._content("x", "")},
            with_arguments({"role": "assistant", "content": "", "tool_calls": [call]}, spelled=spelled, field=""),
        ]
        given = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": False,
            **self._special,
        }
        try:
            self._sandbox.start(given.values())
            return self._template.render(given)
        except Exception:
            return None

    def _content(self, content: Any, field: str) -> Any:
        if isinstance(content, str) and self._loops and not self._asks:
            return [{"type": "text", "text": content}]
        if not isinstance(content, list):
            return content
        for i, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise InvalidValue(f"{field}[{i}]", part, 'only parts {"type": "text", "text": "..."} are')
        return content if self._loops else plain_text(content)


def with_arguments(message: dict[str, Any], *, spelled: bool, field: str) -> dict[str, Any]:
    """A message whose calls have their arguments as JSON, or as objects. Raises InvalidValue."""
    calls = []
    for place, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            calls.append(call)
            continue
        value = function.get("arguments", {})
        try:
            value = (json.loads(value) if value.strip() else {}) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            where = f"{field}.tool_calls[{place}].function.arguments"
            raise InvalidValue(where, function["arguments"], "the JSON text of an object")
        given = json.dumps(value, ensure_ascii=False) if spelled else value
        calls.append({**call, "function": {**function, "arguments": given}})
    return {**message, "tool_calls": calls} if calls else message


def plain_text(content: str | list[dict[str, Any]] | None) -> str:
    """A message's content as one text: its parts in lines of their own; of none an empty one."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


def _last_text(messages: list[dict[str, Any]]) -> str:
    """The text that the last message ends with, without spaces around it; empty where there is none."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, list):
        content = content[-1].get("text") if content and isinstance(content[-1], dict) else None
    return content.strip() if isinstance(content, str) else ""


def _marked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with MARK behind the last one's text, if there is any."""
    if not _last_text(messages):
        return messages
    *before, last = messages
    content = last["content"]
    if isinstance(content, list):
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + MARK}]
    else:
        content += MARK
    return [*before, {**last, "content": content}]


def _shown(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _loops_over_content(tree: nodes.Template) -> bool:
    """Whether some loop runs over the content of a message, by the rule of `ChatTemplate`."""
    from jinja2 import nodes

    def is_content(node: nodes.Node | None) -> bool:
        while isinstance(node, nodes.Filter):
            node = node.node
        if isinstance(node, nodes.Getattr):
            return node.attr == "content"
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
        return isinstance(node, nodes.Name) and node.name in names

    names = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and is_content(assign.node):
            names.add(assign.target.name)
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))
