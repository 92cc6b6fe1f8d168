"""The words behind another server's name, and what each becomes behind `twofold serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twofold.migrate.flags import Flag, Program
from twofold.migrate.words import Word


@dataclass(frozen=True, kw_only=True)
class Given:
    """A flag with its values as it stands in a command; flag None: unknown. A word without a flag has no name."""

    name: str
    word: Word
    values: tuple[Word, ...] = ()
    inline: str | None = None
    flag: Flag | None = None

    @property
    def value(self) -> str:
        """The value, when there is one only."""
        return self.inline if self.inline is not None else " ".join(word.text for word in self.values)

    @property
    def end(self) -> int:
        """Where the flag and its values end."""
        return self.values[-1].end if self.values else self.word.end

    @property
    def is_exact(self) -> bool:
        """Whether it is known what to write in its place."""
        if not self.name:
            return True
        known = self.flag is not None and self.flag.how in ("same", "value", "needless")
        return known and (self.flag is None or self.flag.how != "value" or self.value in self.flag.values)

    def new_words(self) -> list[str]:
        """What to write in its place, as words; nothing where it can be left out."""
        if not self.name:
            return [self.word.text]
        if self.flag is None or self.flag.how in ("needless", "look", "none"):
            return []
        value = self.value
        if self.flag.how == "value":
            value = self.flag.values.get(self.value, "")
            if not value:
                return []
        name = self.flag.new_name(self.name)
        return [value] if name == "MODEL" else [name, value] if value else [name]


def read_command(program: Program, words: Sequence[Word]) -> list[Given]:
    """The flags of a command with their values, and its other words."""
    given: list[Given] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        name, sign, inline = word.text.partition("=")
        if not name.startswith("-") or name in ("-", "--"):
            given.append(Given(name="", word=word))
            continue
        flag = program.flag(name)
        values: list[Word] = []
        most = 0 if sign else flag.takes if flag else -1
        while place < len(words) and (most < 0 or len(values) < most) and not words[place].text.startswith("-"):
            values.append(words[place])
            place += 1
            if flag is None:
                break
        given.append(Given(name=name, word=word, values=tuple(values), inline=inline if sign else None, flag=flag))
    return given


def is_exact(program: Program, given: Sequence[Given]) -> bool:
    """Whether the whole command can be written anew without a loss."""
    models = sum(1 for item in given if not item.name or (item.flag and item.flag.becomes == "MODEL"))
    stray = any(not item.name for item in given) and not program.positional
    return models == 1 and not stray and all(item.is_exact for item in given) and not program.verbs


def added(program: Program, given: Sequence[Given]) -> list[str]:
    """Flags to write because the old server's default was another."""
    found = []
    for name, value in program.add.items():
        flag = program.flag(name)
        new = flag.new_name(name) if flag else name
        if not any(item.flag and item.flag.new_name(item.name) == new for item in given):
            found += [new, value]
    return found


def new_command(program: Program, given: Sequence[Given]) -> str:
    """The new command in one line, as far as it is known."""
    words = [word for item in given for word in item.new_words()]
    if not any(not item.name or (item.flag and item.flag.becomes == "MODEL") for item in given):
        words.insert(0, "MODEL")
    return " ".join(["twofold", "serve", *added(program, given), *words])


def rewritten(text: str, start: int, end: int, program: Program, given: Sequence[Given]) -> str:
    """The command of `text[start:end]` (the program's name) and `given`, with lines and quotes kept."""
    parts = [" ".join(["twofold serve", *added(program, given)])]
    place = end
    for item in given:
        gap = text[place : item.word.start]
        place = item.end
        raw = text[item.word.start : item.end]
        if not item.name:
            parts.append(gap + raw)
            continue
        assert item.flag is not None
        if not item.new_words():
            continue
        name = item.flag.new_name(item.name)
        behind = text[item.word.start + len(item.name) : item.end]  # "=value" or " value", with its quotes
        if item.flag.how == "value":
            sign = "=" if item.inline is not None else " "
            behind = sign + item.flag.values[item.value]
        parts.append(gap + (behind.lstrip("= \t") if name == "MODEL" else name + behind))
    return "".join(parts)
