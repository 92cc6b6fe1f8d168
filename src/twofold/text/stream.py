"""Text of an answer as it grows: never half a character, never part of a stop string.

A stop string is found by the automaton of Knuth, Morris and Pratt, one character at a time, so a token costs the length
of its own text however long the answer is.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from twofold.errors import InvalidSampling
from twofold.text.tokenizer import Tokenizer


class StopMatcher:
    """How much of one stop string the text read so far ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._border = _borders(stop)

    def read(self, character: str) -> bool:
        """Take one more character; True when it completes the stop string."""
        while self.length and self.stop[self.length] != character:
            self.length = self._border[self.length - 1]
        self.length += self.stop[self.length] == character
        return self.length == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For every prefix of the string, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[length] != stop[index]:
            length = borders[length - 1]
        length += stop[length] == stop[index]
        borders[index] = length
    return borders


class TextStream:
    """Token ids in, text that is safe to show out.

    The pieces of `feed` and the last one of `flush` join to `tokenizer.decode` of all ids, up to the first stop string
    to be completed (of two completed by the same character, the longer one). `include_stop` keeps that string.
    stopped: a stop string was found, nothing more will come. stop_string: which one.
    Raises InvalidSampling for an empty stop string.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, include_stop: bool = False, skip_special: bool = True
    ) -> None:
        if isinstance(stop, str) or not all(stop):
            raise InvalidSampling(f"stop is {stop!r}; a list of strings that are not empty was expected")
        self.stop_string: str | None = None
        self._tokenizer = tokenizer
        self._include_stop = include_stop
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matchers = [StopMatcher(text) for text in sorted(stop, key=len, reverse=True)]
        self._held = ""
        self._at_start = tokenizer.strips_first_space

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self.stop_string is not None

    def feed(self, token: int) -> str:
        """Add one token; returns the text that has become safe to show, often none."""
        if self.stopped:
            return ""
        data = self._tokenizer.shown_bytes(token, skip_special=self._skip_special)
        return self._read(self._decoder.decode(data))

    def flush(self) -> str:
        """End of the tokens: whatever was held back, an open character as U+FFFD. It may complete a stop string."""
        if self.stopped:
            return ""
        shown = self._read(self._decoder.decode(b"", final=True))
        if not self.stopped:
            shown, self._held = shown + self._held, ""
        return shown

    def _read(self, text: str) -> str:
        if self._at_start and text:
            text, self._at_start = text.removeprefix(" "), False
        if not self._matchers:
            return text
        self._held, before = "", self._held
        for index, character in enumerate(text):
            finished = [matcher.stop for matcher in self._matchers if matcher.read(character)]
            if finished:
                self.stop_string = finished[0]
                end = len(before) + index + 1 - (0 if self._include_stop else len(finished[0]))
                return (before + text)[:end]
        seen = before + text
        safe = len(seen) - max(matcher.length for matcher in self._matchers)
        self._held = seen[safe:]
        return seen[:safe]
