"""The text of a JSON object as it comes: how far it is one, letter by letter.

Invariant: what is taken is the beginning of an object, and all of one where `done` says so: just what
json.loads takes, but for NaN and the infinities. Knows no calls.
"""

from __future__ import annotations

import re

_SPACES = " \t\r\n"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')  # of a string
_WORDS = ("true", "false", "null")
_DIGITS = "0123456789"
_NUMBER = {  # state: what each letter leads to
    "-": {"0": "0", **dict.fromkeys("123456789", "1")},
    "0": {".": ".", "e": "e", "E": "e"},
    "1": {".": ".", "e": "e", "E": "e", **dict.fromkeys(_DIGITS, "1")},
    ".": dict.fromkeys(_DIGITS, "f"),
    "f": {"e": "e", "E": "e", **dict.fromkeys(_DIGITS, "f")},
    "e": {"+": "+", "-": "+", **dict.fromkeys(_DIGITS, "x")},
    "+": dict.fromkeys(_DIGITS, "x"),
    "x": dict.fromkeys(_DIGITS, "x"),
}
_COMPLETE = "01fx"  # where a number may end


class Scan:
    """Reads one object. done: it is whole; broken: what came next cannot go on with it."""

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._open: list[str] = []  # brackets
        self._wants = "object"  # what comes next; within strings, numbers and words, their kind
        self._within = ""  # what is there of a number (its state) or word; what is missing of an escape
        self._key = False  # the string is a name

    def push(self, text: str, start: int, end: int) -> tuple[int, str]:
        """Take text[start:end]; where what belongs to the object ends, and this text."""
        place = start
        while place < end and not self.done and not self.broken:
            if self._wants == "string" and not self._within:
                found = _PLAIN.match(text, place, end)
                assert found is not None, "it matches nothing too"
                place = found.end()
                if place == end:
                    break
            if self._take(text[place]):
                place += 1
        return place, text[start:place]

    def rest(self, arguments: str) -> str:
        """Nothing: what is JSON to its end is given out to its end."""
        return ""

    def _take(self, letter: str) -> bool:
        """One letter; whether it is taken: else it breaks the object, or only ended a number."""
        wants = self._wants
        if wants == "string":
            return self._string(letter)
        if wants == "number":
            state = _NUMBER[self._within].get(letter)
            if state is not None:
                self._within = state
                return True
            if self._within in _COMPLETE:
                self._wants, self._within = "more", ""
                return False
            return self._break()
        if wants == "word":
            self._within += letter
            if self._within in _WORDS:
                self._wants, self._within = "more", ""
            elif not any(word.startswith(self._within) for word in _WORDS):
                return self._break()
            return True
        return (letter in _SPACES and wants != "object") or self._sign(letter, wants)

    def _sign(self, letter: str, wants: str) -> bool:
        """A letter outside strings, numbers and words."""
        if letter in "}]" and wants in ("more", "first name" if letter == "}" else "first value"):
            if self._open.pop() != ("{" if letter == "}" else "["):
                return self._break()
            self._wants, self.done = "more", not self._open
        elif letter == "," and wants == "more":
            self._wants = "name" if self._open[-1] == "{" else "value"
        elif letter == ":" and wants == "colon":
            self._wants = "value"
        elif letter == '"' and wants.endswith(("name", "value")):
            self._wants, self._key = "string", wants.endswith("name")
        elif letter == "{" and wants.endswith(("object", "value")):
            self._open.append(letter)
            self._wants = "first name"
        elif not wants.endswith("value"):
            return self._break()
        elif letter == "[":
            self._open.append(letter)
            self._wants = "first value"
        elif letter in "tfn":
            self._wants, self._within = "word", letter
        elif letter in "-0123456789":
            self._wants, self._within = "number", letter if letter in "-0" else "1"
        else:
            return self._break()
        return True

    def _string(self, letter: str) -> bool:
        """A letter of a string that is not plain, or of an escape."""
        if self._within == "\\":
            self._within = "hhhh" if letter == "u" else ""
            return letter in '"\\/bfnrtu' or self._break()
        if self._within:
            self._within = self._within[1:]
            return letter in "0123456789abcdefABCDEF" or self._break()
        if letter == "\\":
            self._within = letter
        elif letter == '"':
            self._wants = "colon" if self._key else "more"
        else:
            return self._break()
        return True

    def _break(self) -> bool:
        self.broken = True
        return False
