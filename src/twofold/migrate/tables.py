"""The tables of docs/migration.md, from the rules and flags: python -m twofold.migrate.tables docs/migration.md"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from twofold.migrate.flags import Flag, flags, programs, variables
from twofold.migrate.rules import Rule, rules

FAMILY = {"llama2": "Llama 2", "llama3": "Llama 3", "any": "any"}


def tables() -> dict[str, str]:
    """Every table by the name of its place in the page."""
    found = {"rules": table(("what you have", "what it becomes", "of", "changed by"), map(rule_row, rules()))}
    for program in programs():
        own = [flag for flag in flags() if flag.program == program.name]
        if own:
            found[f"flags of {program.name}"] = table(
                (f"flag of {program.name}", "in `twofold serve`", "why"), map(flag_row, own)
            )
    rows = [(codes(variable.names), variable.becomes, variable.why) for variable in variables()]
    return {**found, "environment": table(("in the environment", "becomes", "why"), rows)}


def rule_row(rule: Rule) -> Sequence[str]:
    """What you have, what it becomes, whose it is, and who changes it."""
    has = f"`{rule.shown}`, {rule.what}" if rule.shown else f"{rule.what} (`{rule.name}`)"
    becomes = f"`{rule.becomes}`" if rule.put else rule.becomes
    return has, becomes, FAMILY[rule.family], "`--write`" if rule.put else "you"


def flag_row(flag: Flag) -> Sequence[str]:
    """Names, what they become, and why."""
    becomes = flag.told(flag.names[0])
    if flag.how == "same" and not flag.becomes:
        becomes = "the same"
    elif flag.how == "value":
        becomes = f"{becomes}; other values: you" if flag.becomes else f"{becomes}; other values: no equivalent"
    return codes(flag.names), f"`{becomes}`" if becomes.startswith("--") and " " not in becomes else becomes, flag.why


def codes(names: Sequence[str]) -> str:
    """Names as code."""
    return ", ".join(f"`{name}`" for name in names)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def filled(page: str) -> str:
    """The page with its tables as the rules are now."""
    for name, text in tables().items():
        before, mark, rest = page.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert mark, f"the page has no place for the table {name!r}"
        assert end, f"the table {name!r} has no end"
        page = "".join([before, mark, text, "\n", end, after])
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text("utf-8")), "utf-8")
