"""Structural tags, which mix free text with what must have a form, as llguidance's grammars.

The formats are XGrammar's, as vLLM takes them in `structural_tag`; docs/structured.md lists them. What has no
counterpart is refused by its place. Free text is cut at the first of the strings that may follow it. A special token is
no text: where its name is written, the token is meant.

Invariant: where a trigger is written, a tag that begins with it follows. Each format is written once. Knows no request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from octavo.core.errors import UserError

Refuse = Callable[[str, str], UserError]  # of a place and a reason
Ends = tuple[str, ...] | None  # what follows: one of these; nothing; or None: something else

MAX_DEPTH = 32  # of formats within formats
MAX_REPEATS = 1024
TEXT = "/(?s:.*)/"
# by type: fields that must be there, and those that may be, with the value they may have if it is not read
FORMATS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "const_string": (("value",), {}),
    "json_schema": (
        ("json_schema",),
        {"style": "json", "any_order": False, "max_whitespace_cnt": None, "excludes": []},
    ),
    "regex": (("pattern",), {"excludes": []}),
    "grammar": (("grammar",), {}),
    "any_text": ((), {"excludes": ..., "max_tokens": None, "max_chars": None}),
    "sequence": (("elements",), {}),
    "or": (("elements",), {}),
    "tag": (("begin", "content", "end"), {}),
    "triggered_tags": (("triggers", "tags"), {"at_least_one": ..., "stop_after_first": ..., "excludes": ...}),
    "tags_with_separator": (("tags", "separator"), {"at_least_one": ..., "stop_after_first": ...}),
    "optional": (("content",), {}),
    "star": (("content",), {}),
    "plus": (("content",), {}),
    "repeat": (("content", "min", "max"), {}),
}


class Tags:
    """Writes the grammars of one structural tag.

    schema: what `%json` takes, of a schema and its place. written: a grammar of the caller's, as Lark. specials: ids
    of special tokens by their names. refuse: the error to raise. `patterned`: whether patterns or grammars of the
    caller's take part.
    """

    def __init__(
        self,
        schema: Callable[[Any, str], Any],
        written: Callable[[str, str], str],
        specials: dict[str, int],
        refuse: Refuse,
    ) -> None:
        self._schema, self._written, self._refuse = schema, written, refuse
        self._specials = specials
        self.patterned = False
        names = sorted(filter(None, specials), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._lines: list[str] = []
        self._others: list[dict[str, str]] = []

    def grammars(self, tag: Any, field: str) -> list[dict[str, str]]:
        """llguidance's, of a whole structural tag."""
        if isinstance(tag, dict) and "structures" in tag:
            tag = self._renewed(tag, field)
        self._fields(tag, field, ("format",), {"type": "structural_tag"})
        start = self._format(tag["format"], f"{field}.format", (), 0)
        return [{"lark_grammar": "\n".join([f"start: {start}", *self._lines])}, *self._others]

    def _renewed(self, tag: dict[str, Any], field: str) -> dict[str, Any]:
        """The old form, of structures and triggers, as the new one."""
        self._fields(tag, field, ("structures", "triggers"), {"type": "structural_tag"})
        tags = []
        for place, item in self._items(tag["structures"], f"{field}.structures"):
            self._fields(item, place, ("begin", "schema", "end"), {})
            content = {"type": "json_schema", "json_schema": item["schema"]}
            tags.append({"type": "tag", "begin": item["begin"], "content": content, "end": item["end"]})
        return {"format": {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}}

    def _format(self, value: Any, place: str, ends: Ends, depth: int) -> str:
        """An expression of one format and of what follows it, where that is known."""
        if depth > MAX_DEPTH:
            raise self._refuse(place, f"formats are nested more than {MAX_DEPTH} deep")
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in FORMATS:
            raise self._refuse(f"{place}.type", f"{kind!r:.60} is not supported; one of {', '.join(FORMATS)}")
        self._fields(value, place, *FORMATS[kind])
        made: str = getattr(self, f"_{kind}")(value, place, ends, depth + 1)
        return made

    def _const_string(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        text = self._text(value, "value", place)
        if not text:
            raise self._refuse(f"{place}.value", "a string that is not empty is wanted")
        return f"{self._literal(text)} {self._end(ends)}"

    def _json_schema(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        schema = json.dumps(self._schema(value["json_schema"], f"{place}.json_schema"))
        return f"{self._rule(f'%json {schema}')} {self._end(ends)}"

    def _regex(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        self.patterned = True
        pattern = self._text(value, "pattern", place)
        return f"{self._rule(_slashed(f'(?:{pattern})'))} {self._end(ends)}"

    def _grammar(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        self.patterned = True
        name = f"g{len(self._others)}"
        lark = self._written(self._text(value, "grammar", place), f"{place}.grammar")
        self._others.append({"name": name, "lark_grammar": lark})
        return f"@{name} {self._end(ends)}"

    def _any_text(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        return self._free(self._texts(value, "excludes", place), place, ends)

    def _sequence(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        items = self._items(value["elements"], f"{place}.elements")
        parts = [self._format(item, where, None, depth) for where, item in items[:-1]]
        return f"({' '.join([*parts, self._format(items[-1][1], items[-1][0], ends, depth)])})"

    def _or(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        items = self._items(value["elements"], f"{place}.elements")
        return f"({' | '.join(self._format(item, where, ends, depth) for where, item in items)})"

    def _tag(self, value: dict[str, Any], place: str, ends: Ends, depth: int, skip: int = 0) -> str:
        """skip: characters of its beginning that are written already."""
        begin = self._literal(self._text(value, "begin", place)[skip:])
        own = value["end"] if isinstance(value["end"], list) else [value["end"]]
        if not own or not all(isinstance(end, str) for end in own):
            raise self._refuse(f"{place}.end", "a string, or a list of strings, is wanted")
        if "" in own:  # what follows the tag follows its content
            if len(own) > 1:
                raise self._refuse(f"{place}.end", "an empty string is supported only alone")
            return f"{begin} {self._format(value['content'], f'{place}.content', ends, depth)}"
        return f"{begin} {self._format(value['content'], f'{place}.content', tuple(own), depth)} {self._end(ends)}"

    def _triggered_tags(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        triggers, excluded = (self._texts(value, name, place) for name in ("triggers", "excludes"))
        tags, whole = [], []
        for where, tag in self._tags(value, place):
            trigger = self._trigger(triggers, self._text(tag, "begin", where), where)
            body = self._rule(self._tag(tag, where, None, depth, len(trigger)))
            tags.append(f"{self._free(excluded, where, (trigger,))} {body}")
            whole.append(f"{self._literal(trigger)} {body}")
        once, must = (self._flag(value, name, place) for name in ("stop_after_first", "at_least_one"))
        first = self._rule(" | ".join(whole)) if must else ""
        if once and must:
            return f"{first} {self._end(ends)}"
        one, rest = self._rule(" | ".join(tags)), self._free([*excluded, *triggers], place, ends)
        return f"({one} {self._end(ends)} | {rest})" if once else f"{first} {one}* {rest}"

    def _trigger(self, triggers: list[str], begin: str, place: str) -> str:
        """What a tag is told by: the one trigger it begins with, or the special token that begins with that."""
        found = [trigger for trigger in triggers if begin.startswith(trigger)]
        if len(found) != 1:
            raise self._refuse(f"{place}.begin", f"it begins with {len(found)} of the triggers, and one is wanted")
        special = self._names.match(begin)
        return special[0] if special and len(special[0]) > len(found[0]) else found[0]

    def _tags_with_separator(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        one = self._rule(" | ".join(self._tag(tag, where, None, depth) for where, tag in self._tags(value, place)))
        many = one
        if not self._flag(value, "stop_after_first", place):
            many = f"{one} ({self._literal(self._text(value, 'separator', place))} {one})*"
        return f"({many}){'' if self._flag(value, 'at_least_one', place) else '?'} {self._end(ends)}"

    def _optional(self, value: dict[str, Any], place: str, ends: Ends, depth: int, sign: str = "?") -> str:
        return f"({self._format(value['content'], f'{place}.content', None, depth)}){sign} {self._end(ends)}"

    def _star(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        return self._optional(value, place, ends, depth, "*")

    def _plus(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        return self._optional(value, place, ends, depth, "+")

    def _repeat(self, value: dict[str, Any], place: str, ends: Ends, depth: int) -> str:
        least, most = value["min"], value["max"]
        if type(least) is not int or type(most) is not int or not 0 <= least <= most <= MAX_REPEATS or not most:
            raise self._refuse(
                f"{place}.max", f"min and max are integers, 0 <= min <= max <= {MAX_REPEATS}, max above 0"
            )
        return self._optional(value, place, ends, depth, f"{{{least},{most}}}")

    def _free(self, barred: list[str], place: str, ends: Ends) -> str:
        """Text without the strings `barred`, up to the first of `ends`, which is written too."""
        if ends is None:
            raise self._refuse(
                place, "text that is not the last of its tag, or of all, is supported only before a string"
            )
        for word in (*barred, *ends):
            found = self._names.search(word)
            if found is not None and found.start():
                raise self._refuse(place, f"{word!r:.60} holds a special token that it does not begin with")
        words = [word for word in barred if not self._names.match(word)]  # tokens that are special are no text
        text = TEXT
        if words:
            found_words = "|".join(map(_quoted, words))
            text += f" & ~/(?s:.*)({found_words})(?s:.*)/"
        specials = [end for end in ends if self._names.match(end)]
        plain = [json.dumps(end) for end in ends if end not in specials]
        made = [f"{self._rule(text, terminal=True)} {self._literal(end)}" for end in specials]
        if plain:
            lazy = self._rule(f"({text}) ({' | '.join(plain)})", terminal=True)
            made.append(self._rule(lazy, option="[lazy]"))
        return f"({' | '.join(made)})" if made else self._rule(text, terminal=True)

    def _rule(self, body: str, *, terminal: bool = False, option: str = "") -> str:
        name = f"{'T' if terminal else 'r'}{len(self._lines)}"
        self._lines.append(f"{name}{option}: {body}")
        return name

    def _end(self, ends: Ends) -> str:
        return f"({' | '.join(map(self._literal, ends))})" if ends else ""

    def _literal(self, text: str) -> str:
        """A string, in which names of special tokens stand for those."""
        parts, at = [], 0
        for found in self._names.finditer(text):
            parts += [json.dumps(text[at : found.start()]), f"<[{self._specials[found[0]]}]>"]
            at = found.end()
        return " ".join(part for part in [*parts, json.dumps(text[at:])] if part != '""')

    def _fields(self, value: Any, place: str, wanted: tuple[str, ...], others: dict[str, Any]) -> None:
        """Refuse what is not there or not read."""
        if not isinstance(value, dict):
            raise self._refuse(place, "an object is wanted")
        for name in wanted:
            if name not in value:
                raise self._refuse(f"{place}.{name}", "it is missing")
        for name, given in value.items():
            known = name in wanted or (name == "type" and "type" not in others)
            if not known and (name not in others or (others[name] is not ... and given != others[name])):
                raise self._refuse(f"{place}.{name}", f"{given!r:.60} is not supported")

    def _items(self, value: Any, place: str) -> list[tuple[str, Any]]:
        if not isinstance(value, list) or not value:
            raise self._refuse(place, "a list of at least one is wanted")
        return [(f"{place}[{number}]", item) for number, item in enumerate(value)]

    def _tags(self, value: dict[str, Any], place: str) -> list[tuple[str, dict[str, Any]]]:
        items = self._items(value["tags"], f"{place}.tags")
        for where, item in items:
            self._fields(item, where, FORMATS["tag"][0], {"type": "tag"})
        return items

    def _text(self, value: dict[str, Any], name: str, place: str) -> str:
        text = value[name]
        if not isinstance(text, str):
            raise self._refuse(f"{place}.{name}", "a string is wanted")
        return text

    def _texts(self, value: dict[str, Any], name: str, place: str) -> list[str]:
        texts = value.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise self._refuse(f"{place}.{name}", "a list of strings that are not empty is wanted")
        return texts

    def _flag(self, value: dict[str, Any], name: str, place: str) -> bool:
        flag = value.get(name, False)
        if not isinstance(flag, bool):
            raise self._refuse(f"{place}.{name}", "true or false is wanted")
        return flag


def _quoted(text: str) -> str:
    """A pattern of this text alone."""
    return "".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _slashed(pattern: str) -> str:
    """A pattern between slashes, as Lark takes it."""
    return "/" + re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", pattern, flags=re.DOTALL) + "/"
