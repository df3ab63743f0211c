"""Stop strings in a text that comes in pieces.

Owns the end of the text that may yet become a stop string. The invariant: what has been given out and what is found
depend on the whole text only, never on how it was cut. The match that ends first wins; of two that end together, the
longer. Does not know tokens.

The search is Knuth, Morris and Pratt's, one automaton for each stop string: a step per character and string, however
adverse the text.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Looks for the first stop string of one text. include: the text given out ends with the stop string, not before.

    stops: strings of at least one character. Not thread-safe.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        assert all(stops), "a stop string is empty"
        self._stops = sorted(set(stops), key=len, reverse=True)  # longest first: the first found wins
        self._links = [_links(stop) for stop in self._stops]
        self._reached = [0] * len(self._stops)  # how many characters of each stop string the text ends with
        self._include = include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that is safe to give out, and the stop string if it is complete; after that, nothing more."""
        if self.found is not None:
            return "", self.found
        text = self._held + text
        for end in range(len(self._held), len(text)):
            stop = self._step(text[end])
            if stop is not None:
                self.found, self._held = stop, ""
                keep = end + 1 if self._include else end + 1 - len(stop)
                return text[:keep], stop
        safe = len(text) - max(self._reached, default=0)
        self._held = text[safe:]
        return text[:safe], None

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held

    def _step(self, letter: str) -> str | None:
        """Move each automaton by one character; the stop string that is now complete, or None."""
        found = None
        for i, stop in enumerate(self._stops):
            reached = self._reached[i]
            while reached and stop[reached] != letter:
                reached = self._links[i][reached]
            reached += stop[reached] == letter
            self._reached[i] = reached
            if reached == len(stop):
                found = found or stop
        return found


def _links(stop: str) -> list[int]:
    """For each length of a beginning of `stop`: the length of its longest shorter beginning that is also its end."""
    links = [0, 0]
    for length in range(1, len(stop)):
        link = links[length]
        while link and stop[link] != stop[length]:
            link = links[link]
        links.append(link + (stop[link] == stop[length]))
    return links
