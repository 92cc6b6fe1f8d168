"""twofold migrate: what must change in code and settings, and how the new system answers beside the old one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twofold.cli.comparing import compare
from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.migrate.findings import Placed
    from twofold.migrate.scan import Scan

MOST_FOUND = 100
"""Characters of a found text that are shown."""


@click.group(
    epilog="Examples:  twofold migrate scan ./app  |  twofold migrate compare --old http://old:8000 --new demo "
    "--prompts traffic.jsonl -o report"
)
def command() -> None:
    """Move from a Llama 2/3 system (vLLM, Ollama, TGI, llama.cpp) to Llama 4 and twofold."""


command.add_command(compare)


@command.command(
    epilog="Examples:  twofold migrate scan ./app  |  twofold migrate scan ./app --write  |  "
    "twofold migrate scan docker-compose.yml --to llama3 --json"
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Make the changes that are safe; without it they are only shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the text.")
@click.option(
    "--to",
    type=click.Choice(["llama4", "llama3"]),
    default="llama4",
    show_default=True,
    help="Family to move to; with llama3 what is Llama 3's may stay.",
)
def scan(path: Path, write: bool, as_json: bool, to: str) -> None:
    """Find in PATH (a file or folder) what belongs to a Llama 2/3 system, and say what each becomes.

    Looks through code and settings: Python, JavaScript, TypeScript, YAML, JSON, TOML, shell, Dockerfile, Modelfile,
    .env, systemd units, Jinja. Each finding is either safe, and then part of the diff below, or for a person to look
    at. Nothing is written without --write.
    """
    from twofold.migrate.scan import scan as scan_path
    from twofold.migrate.scan import write as write_change

    found = scan_path(path, to)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=True))
    else:
        for item in found.findings:
            click.echo(told(item))
        for change in found.changes:
            click.echo(printable(change.diff()), nl=False)
    failed = []
    for change in found.changes if write else ():
        problem = write_change(change)
        if problem:
            failed.append(f"{change.source.name}: {problem}")
    click.echo(summary(found, write, len(found.changes) - len(failed)), err=as_json)
    if failed:
        raise SettingsError(f"not written: {'; '.join(failed)}. Scan again.")


def told(item: Placed) -> str:
    """A finding in a few lines."""
    finding = item.finding
    text = " ".join(finding.found.split())
    text = text if len(text) <= MOST_FOUND else text[:MOST_FOUND] + "..."
    kind = "safe" if finding.is_safe else f"look ({finding.confidence} confidence)"
    return printable(
        f"{item.path}:{item.line}:{item.column}: {kind}: {finding.what} [{finding.rule}]\n"
        f"    {text}\n    -> {finding.becomes}\n    because {finding.why}\n"
    )


def printable(text: str) -> str:
    """Text without bytes that are no UTF-8, nor signs that a terminal would act on."""
    plain = text.encode("utf-8", "replace").decode()
    return "".join(sign if sign in "\n\t\r" or sign.isprintable() else "\ufffd" for sign in plain)


def summary(found: Scan, is_written: bool, written: int) -> str:
    """The last lines: counts of findings and of what was left out."""
    safe = len(found.safe)
    look = len(found.findings) - safe
    lines = [f"{found.files} files read, {len(found.findings)} findings: {safe} safe, {look} to look at"]
    if found.skipped:
        lines.append("left out: " + "; ".join(f"{count} {reason}" for reason, count in sorted(found.skipped.items())))
    if (
        any(item.finding.rule in ("llama3-model", "ollama-model") for item in found.findings)
        and safe
        and found.to == "llama4"
    ):
        lines.append("tokens and ids become Llama 4's: change the names of the models, too")
    if is_written:
        lines.append(f"{written} files changed")
    elif found.changes:
        lines.append("nothing was written; --write makes the safe changes")
    return "\n".join(lines)
