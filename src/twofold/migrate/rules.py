"""The rules of a scan, from rules.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from twofold.migrate.findings import Confidence

Family = Literal["llama2", "llama3", "any"]
KEYS = {
    "stop": r"stop(?:token|tokens|tokenids?|ids?|s)?|terminators?|endofturn(?:token)?(?:id)?",
    "end": r"(?:eos|eot|eom)(?:token)?(?:ids?|s)?",
    "begin": r"(?:bos|beginoftext)(?:token)?(?:id)?",
    "pad": r"pad(?:ding)?(?:token)?(?:id)?",
    "vocabulary": r"(?:n|num|padded)?vocab(?:ulary)?size|nvocab",
    "context": r"(?:max)?(?:modellen|seqlen|sequencelen|contextlen|inputlen)(?:gth)?|(?:n|num|max)(?:ctx|context)"
    r"|(?:ctx|context)(?:size|window|limit)|maxtotaltokens|maxpositionembeddings|modelmaxlength",
}
"""Names of settings, in small letters and without signs between words."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that is looked for; rules.toml tells what the fields mean. shown: its text, "" where it has several."""

    name: str
    shown: str
    what: str
    why: str
    family: Family
    becomes: str
    put: str | None
    pattern: re.Pattern[str] | None
    number: int | None
    keys: re.Pattern[str] | None
    kinds: frozenset[str]
    roles: frozenset[str]
    confidence: Confidence
    once: bool
    doubt: re.Pattern[str] | None
    example: tuple[str, str]
    counterexample: tuple[str, str]

    def is_for(self, kind: str) -> bool:
        """Whether it is looked for in files of a kind."""
        return not self.kinds or kind in self.kinds


@cache
def rules() -> tuple[Rule, ...]:
    """All rules, in their order."""
    text = (resources.files("twofold.migrate") / "rules.toml").read_text("utf-8")
    return tuple(rule_of(entry) for entry in tomllib.loads(text)["rule"])


def rules_for(to: str) -> tuple[Rule, ...]:
    """The rules for people who move to llama4, or to llama3: then what is Llama 3's may stay."""
    return tuple(rule for rule in rules() if to == "llama4" or rule.family != "llama3")


def rule_of(entry: dict[str, Any]) -> Rule:
    """One entry of the file."""
    token, number, put = entry.get("token"), entry.get("number"), entry.get("put")
    pattern = token_pattern(token) if token else entry.get("pattern")
    keys = "|".join(KEYS[name] for name in entry.get("keys", ()))
    becomes = entry.get("becomes") or (f"<|{put}|>" if token else str(put))
    file = entry.get("file", "a.py")
    return Rule(
        name=entry["name"],
        shown=f"<|{token}|>" if token else str(number or ""),
        what=entry["what"],
        why=entry["why"],
        family=entry["from"],
        becomes=becomes,
        put=put,
        pattern=re.compile(pattern) if pattern else None,
        number=number,
        keys=re.compile(rf"(?:{keys})\Z") if keys else None,
        kinds=frozenset(entry.get("kinds", ())),
        roles=frozenset(entry.get("roles", ("string", "text"))),
        confidence=entry.get("confidence", "high"),
        once=entry.get("once", False),
        doubt=re.compile(entry["doubt"]) if "doubt" in entry else None,
        example=(file, entry["example"]),
        counterexample=(entry.get("counterfile", file), entry["counterexample"]),
    )


def token_pattern(name: str) -> str:
    """Finds <|name|> as it is, as JSON of Go writes it, and as regular expressions escape it; "it" is the name."""
    return rf"(?:<|\\u003[cC])\\{{0,2}}\|(?P<it>{name})\\{{0,2}}\|(?:>|\\u003[eE])"
