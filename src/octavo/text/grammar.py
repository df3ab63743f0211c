"""What an answer must look like, in whichever form the caller wrote it, as one text: llguidance's grammar.

Only translates: what is wrong inside a schema, a pattern or a grammar is found where it is compiled, in
worker/grammars.py.
The forms are described in docs/structured.md. Knows no request and no tokens.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from octavo.core.errors import UserError
from octavo.core.structured import StructuredOutputsParams
from octavo.text.tags import Tags

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

MAX_TEXT = 1 << 17  # characters of a schema, pattern or grammar as the caller wrote it
MAX_CHOICES = 4096
# One spelling of each string. Could \u spell a key, it might come twice, and the second time as anything.
ESCAPES = 'nrbtf\\"'
# Where a caller's pattern stands beside others, a text may be forced for ever, and llguidance would look for its end.
# It comes last, so that nothing in the grammar takes it back.
UNFORCED = '\n%llguidance {"no_forcing": true}'
UNSPELLED = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")  # what JSON writes with \u only
VALUES = ("const", "enum")  # keywords whose values are written as they stand
IDLE = ("default", "examples")  # those that say nothing of what is valid
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # those of schemas by name
_APART = {*VALUES, *IDLE, *NAMED}  # keywords whose values are no schemas
# What a pattern is made of: escapes, and all other characters.
_ATOM = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[pPux]\{[^}]*\}|\\.|.", re.DOTALL)
_SETS = re.compile(r"\\[dDwWsSpP]")  # escapes that stand for many characters
# Of GBNF: a rule's head; its strings, classes, comments, names and dots; escapes within those.
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+\s*::=", re.MULTILINE)
_GBNF_PARTS = re.compile(r"""\"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\#[^\n]*|[\w-]+|\.""", re.DOTALL)
_GBNF_ESCAPE = re.compile(r"\\(?:(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|.)", re.DOTALL)


def grammar_of(asked: StructuredOutputsParams | None, tokenizer: Tokenizer | None = None) -> str:
    """llguidance's grammar, empty for none. Raises UserError, naming the field, for what cannot be translated.

    tokenizer: whose special tokens structural tags may name.
    """
    if asked is None:
        return ""
    if asked.json is not None:
        return _schema(asked, asked.json)
    if asked.json_object:
        return _schema(asked, {"type": "object"})
    if asked.choice is not None:
        return _choice(asked.choice, asked.place("choice"))
    if asked.regex is not None:
        return _regex(asked.regex, asked.place("regex"))
    if asked.structural_tag is not None:
        return _tags(asked, asked.structural_tag, tokenizer)
    assert asked.grammar is not None
    field = asked.place("grammar")
    return _lark(_written(asked.grammar, field) + UNFORCED)


def _schema(asked: StructuredOutputsParams, schema: Any) -> str:
    field = asked.place("json")
    followed = guided(asked, schema, field)
    if asked.whitespace_pattern is not None:
        return _lark(f"start: %json {json.dumps(followed)}{UNFORCED}")
    return json.dumps({"grammars": [{"json_schema": followed}]})


def guided(asked: StructuredOutputsParams, schema: Any, field: str) -> dict[str, Any]:
    """A schema as llguidance is to follow it, with `asked`'s white space. Raises UserError naming `field`."""
    schema = _parsed(schema, field)
    if not isinstance(schema, (dict, bool)):
        raise refused(field, "a JSON schema is an object, or true or false")
    if schema is False:
        raise refused(field, "the schema false allows nothing")
    written = _dumped(schema, field)
    _check_size(field, written)
    schema = _kept(json.loads(written), field, closed=asked.disable_additional_properties)
    options: dict[str, Any] = {"json_allowed_escapes": ESCAPES}
    if asked.disable_any_whitespace:
        options["whitespace_flexible"] = False
    elif asked.whitespace_pattern is not None:
        options["whitespace_pattern"] = asked.whitespace_pattern
    # llguidance's own switches are the server's, not the caller's
    return {**({} if schema is True else schema), "x-guidance": options}


def _parsed(value: Any, field: str) -> Any:
    """What is given as JSON or as its text."""
    if not isinstance(value, str):
        return value
    _check_size(field, value)
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise refused(field, f"not readable as JSON: {error}") from None


def _dumped(value: Any, field: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(field, f"it cannot be written as JSON: {error}") from None


def _kept(schema: Any, field: str, *, closed: bool) -> Any:
    """The schema, changed to what llguidance reads as it is meant. Refuses what that would take and not keep.

    closed: objects whose properties are listed hold no others, unless it says that they do.
    """
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo.extend(part)
        elif isinstance(part, dict):
            if closed and "properties" in part:
                part.setdefault("additionalProperties", False)
            _check_least(part, field)
            for name in part.keys() & VALUES:
                _check_written(part[name], field)
            _spell_patterns(part)
            named = [part[name] for name in NAMED if isinstance(part.get(name), dict)]
            todo.extend(item for names in named for item in names.values())
            todo.extend(item for name, item in part.items() if name not in _APART)
    return schema


def _check_written(value: Any, field: str) -> None:
    """Refuse a value that cannot be written as it stands."""
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, str) and UNSPELLED.search(part):
            raise refused(field, f"the control characters of {part[:40]!r} cannot be written")
        if isinstance(part, list):
            todo.extend(part)
        elif isinstance(part, dict):
            todo.extend([*part, *part.values()])


def _spell_patterns(part: dict[str, Any]) -> None:
    """Write the patterns of one schema for llguidance."""
    if isinstance(part.get("pattern"), str):
        part["pattern"] = _plain(part["pattern"])
    if isinstance(part.get("patternProperties"), dict):
        part["patternProperties"] = {_plain(name): item for name, item in part["patternProperties"].items()}


def _plain(pattern: str) -> str:
    """The same pattern for Rust, which reads more than JavaScript in a class: && -- ~~ and classes in it are itself."""
    atoms, made, place = _ATOM.findall(pattern), [], 0
    while place < len(atoms):
        made.append(atoms[place])
        place += 1
        if made[-1] == "[":
            place = _plain_class(atoms, place, made)
    return "".join(made)


def _plain_class(atoms: list[str], place: int, made: list[str]) -> int:
    """Write a class of characters behind its bracket; where it ends."""
    if atoms[place : place + 1] == ["^"]:
        made.append("^")
        place += 1
    first = place
    while place < len(atoms) and (atoms[place] != "]" or place == first):
        ends = atoms[place : place + 3 : 2]
        ranges = atoms[place + 1 : place + 2] == ["-"] and ends[1:] not in ([], ["]"])
        if not ranges or _SETS.match(ends[0]):
            ends = ends[:1]
        made.append("-".join("\\" + end if end in "[]&~-^" else end for end in ends))
        place += 2 * len(ends) - 1
    return place


def _check_least(part: dict[str, Any], field: str) -> None:
    """Keys that are not listed may come twice, so that they are too few: one more than those required is sure."""
    least, required = part.get("minProperties"), part.get("required")
    sure = 1 + (len(required) if isinstance(required, list) else 0)
    if isinstance(least, (int, float)) and least > sure:
        raise refused(field, f"minProperties {least} is more than the required ones and one: this is not supported")


def _choice(choices: list[str], field: str) -> str:
    if len(choices) > MAX_CHOICES:
        raise refused(field, f"{len(choices)} choices; at most {MAX_CHOICES} are taken")
    # one terminal, whose alternatives are one automaton: of a rule's the parser takes 2000 at most
    lark = "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in choices)
    _check_size(field, lark)
    return _lark(lark)


def _regex(pattern: str, field: str) -> str:
    _check_size(field, pattern)
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(pattern)


def _tags(asked: StructuredOutputsParams, tag: Any, tokenizer: Tokenizer | None) -> str:
    field = asked.place("structural_tag")
    tag = _parsed(tag, field)
    _check_size(field, _dumped(tag, field))
    ids = tokenizer.special_ids if tokenizer is not None else ()
    specials = {tokenizer.token_text(id): id for id in sorted(ids)} if tokenizer is not None else {}
    tags = Tags(lambda schema, place: guided(asked, schema, place), _written, specials, refused)
    grammars = tags.grammars(tag, field)
    if tags.patterned or asked.whitespace_pattern is not None:
        grammars = [grammar | {"lark_grammar": grammar["lark_grammar"] + UNFORCED} for grammar in grammars]
    return json.dumps({"grammars": grammars})


def _written(grammar: str, field: str) -> str:
    """As Lark, which stays as it is; what defines its rules by ::= is GBNF."""
    _check_size(field, grammar)
    if not _GBNF_RULE.search(grammar):
        return grammar
    from llguidance import gbnf_to_lark

    try:
        return gbnf_to_lark.gbnf_to_lark(_GBNF_PARTS.sub(lambda found: _gbnf_part(found[0]), grammar))
    except Exception as error:  # what the converter raises has no narrower type
        raise refused(field, f"not readable as GBNF: {error}") from None


def _gbnf_part(part: str) -> str:
    """A string, class, comment, name or dot of GBNF, spelled so that its translation means the same."""
    if part == ".":
        return "[\\x00-\U0010ffff]"  # line ends too
    if part == "start":
        return "start-of-theirs"  # Lark's word for the root
    if part[0] not in '"[':
        return part
    part = _GBNF_ESCAPE.sub(lambda found: _letter(int(found[1][1:], 16)) if found[1] else found[0], part)
    return part.replace("&", r"\x26").replace("~", r"\x7e") if part[0] == "[" else part


def _letter(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


def _lark(grammar: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": grammar}]})


def _check_size(field: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise refused(field, f"{len(text)} characters; at most {MAX_TEXT} are taken")


def refused(field: str, reason: str) -> UserError:
    """The error of what cannot be a grammar, in one line."""
    reason = " ".join(reason.split())
    return UserError(f"{field}: {reason[:500]}", field, "invalid_grammar")
