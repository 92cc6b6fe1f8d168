"""The flags of other servers and what each becomes, from flags.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

How = Literal["same", "value", "needless", "look", "none"]


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag; flags.toml tells what the fields mean."""

    program: str
    names: tuple[str, ...]
    takes: int
    how: How
    why: str
    becomes: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def new_name(self, name: str) -> str:
        """What the flag is called in twofold."""
        return self.becomes or name

    def told(self, name: str, value: str | None = None) -> str:
        """What it becomes, in words; `value` is the one it has in a command."""
        if self.how == "none":
            return "no equivalent"
        if self.how == "needless":
            return "nothing: leave it out"
        if self.how == "value":
            pairs = [f"{old}: {f'{self.becomes} {new}' if new else 'leave it out'}" for old, new in self.values.items()]
            unknown = value is not None and value not in self.values
            return "; ".join([f"{value}: no equivalent" if unknown else "", *pairs]).removeprefix("; ")
        return self.new_name(name)


@dataclass(frozen=True, kw_only=True)
class Program:
    """Another server: its starts, and the flags whose default was another. sign: in small letters, in each start."""

    name: str
    sign: str
    starts: re.Pattern[str]
    images: re.Pattern[str]
    positional: bool
    add: Mapping[str, str]
    flags: Mapping[str, Flag]
    verbs: Mapping[str, str]

    def flag(self, name: str) -> Flag | None:
        """A flag by its name, with _ for - too."""
        return self.flags.get("--" + name[2:].replace("_", "-") if name.startswith("--") else name)


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A name in the environment that another server reads."""

    names: tuple[str, ...]
    becomes: str
    why: str
    needs: str = ""


@cache
def table() -> dict[str, Any]:
    """The file as it is."""
    return tomllib.loads((resources.files("twofold.migrate") / "flags.toml").read_text("utf-8"))


@cache
def flags() -> tuple[Flag, ...]:
    """All flags, in their order."""
    return tuple(Flag(**{**entry, "names": tuple(entry["names"])}) for entry in table()["flag"])


@cache
def variables() -> tuple[Variable, ...]:
    """All names in the environment."""
    return tuple(Variable(**{**entry, "names": tuple(entry["names"])}) for entry in table()["variable"])


@cache
def programs() -> tuple[Program, ...]:
    """All servers people come from."""
    return tuple(program_of(entry) for entry in table()["program"])


def program_of(entry: Mapping[str, Any]) -> Program:
    """One entry of the file."""
    own = [flag for flag in flags() if flag.program == entry["name"]]
    starts, images = "|".join(entry["starts"]), "|".join(entry["images"])
    return Program(
        name=entry["name"],
        sign=entry["sign"],
        starts=re.compile(rf"(?<![\w.\-])(?:{starts})(?![\w.\-/])"),
        images=re.compile(rf"(?<![\w.\-/])(?:docker\.io/)?(?:{images})(?:[:@][\w.\-:]+)?(?![\w.\-/])"),
        positional=entry["positional"],
        add=entry["add"],
        verbs=entry.get("verbs", {}),
        flags={name: flag for flag in own for name in flag.names},
    )
