"""twofold migrate compare: the same traffic through the old system and the new one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.options import with_options
from twofold.config import DTYPES

if TYPE_CHECKING:
    from twofold.migrate.answers import Side
    from twofold.migrate.figures import Price
    from twofold.migrate.report import Report

NO_GO = 3
"""Exit status of a comparison that says no-go, or was cut short."""

SETTINGS = ("sampling", "max_tokens", "timeout", "old_price", "new_price")
"""Options that the report tells."""

SIDES = (
    click.option(
        "--old",
        required=True,
        metavar="URL|MODEL",
        help="The system in use: an OpenAI-compatible address, or a model to run here.",
    ),
    click.option("--new", required=True, metavar="URL|MODEL", help="The system to move to, in the same forms."),
    click.option("--old-model", metavar="NAME", help="Model to ask the old address for. [default: the first it names]"),
    click.option("--new-model", metavar="NAME", help="Model to ask the new address for. [default: the first it names]"),
    click.option("--old-key", envvar="TWOFOLD_OLD_KEY", help="API key of the old address; better in TWOFOLD_OLD_KEY."),
    click.option("--new-key", envvar="TWOFOLD_NEW_KEY", help="API key of the new address; better in TWOFOLD_NEW_KEY."),
    click.option("--old-dtype", type=click.Choice(DTYPES), help="Bits of the weights, where the old side runs here."),
    click.option("--new-dtype", type=click.Choice(DTYPES), help="Bits of the weights, where the new side runs here."),
    click.option(
        "--context", type=int, help="Longest sequence of models that run here. [default: the model's, at most 8192]"
    ),
    click.option("--threads", type=int, help="Threads of models that run here. [default: one per physical core]"),
)
ASKING = (
    click.option(
        "--prompts",
        required=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='Requests, one JSON object a line: the fields of a chat request, or {"prompt": ...}.',
    ),
    click.option("--limit", type=click.IntRange(min=1), help="The first so many requests only."),
    click.option(
        "--sampling",
        type=click.Choice(["greedy", "recorded"]),
        default="greedy",
        show_default=True,
        help="greedy: temperature 0 for every request, so that chance makes no difference.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
        help="Longest answer where a request sets no bound.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.1),
        default=120.0,
        show_default=True,
        help="Seconds an address has for a whole answer.",
    ),
)
PRICES = (
    click.option("--prices", type=click.Path(path_type=Path), help="The price book. [default: the one that ships]"),
    click.option("--old-price", metavar="NAME", help="Hosted API or machine of the price book that the old side is."),
    click.option("--new-price", metavar="NAME", help="Hosted API or machine of the price book that the new side is."),
)
SHARE = click.FloatRange(0, 1)
LIMITS = (
    click.option(
        "--least-prompts",
        type=click.IntRange(min=1),
        default=20,
        show_default=True,
        help="For a go: requests that both must answer.",
    ),
    click.option(
        "--most-failures",
        type=SHARE,
        default=0.0,
        show_default=True,
        help="For a go: share of requests the new side may fail.",
    ),
    click.option(
        "--least-agreement", type=SHARE, default=0.5, show_default=True, help="For a go: mean share of words in common."
    ),
    click.option(
        "--most-loss",
        type=SHARE,
        default=0.02,
        show_default=True,
        help="For a go: how much smaller the share of valid tool calls, and of JSON answers, may be.",
    ),
    click.option(
        "--most-slowdown",
        type=click.FloatRange(min=0),
        default=1.5,
        show_default=True,
        help="For a go: new median time over the old one.",
    ),
    click.option(
        "--most-cost",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help="For a go: new cost over the old one, where both have a price.",
    ),
)


@click.command(
    epilog="Examples:  twofold migrate compare --old http://vllm:8000/v1 --new http://127.0.0.1:8000/v1 --prompts "
    "traffic.jsonl -o report  |  twofold migrate compare --old demo --new demo --new-dtype w8a8 --prompts traffic.jsonl"
)
@with_options(*SIDES, *ASKING)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for report.html and report.json."
)
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON in place of the text.")
@with_options(*PRICES, *LIMITS)
def compare(prompts: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Ask the old and the new system the same questions, and say go or no-go with reasons.

    Compared are the answers, the validity of tool calls and JSON answers, token counts, times and, with prices, cost.
    What a side does wrong (errors, silence, nonsense) is part of the result. Ctrl-C keeps the report of what was
    asked so far. The report holds the prompts and answers. Exit status: 0 go, 3 no-go.
    """
    from rich.console import Console

    from twofold.migrate.comparing import Comparison
    from twofold.migrate.comparing import compare as ask_both
    from twofold.migrate.traffic import prepared, read_traffic
    from twofold.migrate.verdict import Limits

    traffic = read_traffic(prompts, options["limit"])
    for line, problem in traffic.bad:
        click.echo(f"warning: line {line} of {prompts} is not asked: {problem}", err=True)
    currency, prices = read_prices(options)
    asks = [prepared(ask, options["sampling"] == "greedy", options["max_tokens"]) for ask in traffic.asks]
    names = ("least_prompts", "most_failures", "least_agreement", "most_loss", "most_slowdown", "most_cost")
    comparison = Comparison(
        old=side_of("old", options),
        new=side_of("new", options),
        bad_lines=traffic.bad,
        currency=currency,
        prices=prices,
        limits=Limits(**{name: options[name] for name in names}),
        settings={"prompts": prompts.name, **{name: str(options[name]) for name in SETTINGS if options[name]}},
    )
    with Console(stderr=True).status(f"0 of {len(asks)} requests") as status:
        report = ask_both(
            comparison,
            asks,
            output,
            lambda done, pair: status.update(f"{done} of {len(asks)} requests, line {pair.ask.line}"),
        )
    click.echo(json.dumps(report.to_json(), indent=1) if as_json else told(report))
    if output is not None:
        click.echo(f"report: {output / 'report.html'}", err=True)
    if not report.verdict.is_go:
        sys.exit(NO_GO)


def side_of(name: str, options: dict[str, Any]) -> Side:
    """One side: an address, or a model that is loaded now. Raises SettingsError and what loading raises."""
    from twofold.errors import SettingsError
    from twofold.migrate.client import Endpoint, read_address

    where, model, dtype = options[name], options[f"{name}_model"], options[f"{name}_dtype"]
    if where.startswith(("http://", "https://")):
        if dtype:
            raise SettingsError(f"--{name}-dtype is for a model that runs here; {where} is an address")
        return Endpoint(read_address(where), model, options[f"{name}_key"], options["timeout"])
    if model:
        raise SettingsError(f"--{name}-model is for an address; {where} is a model itself")
    from twofold.cli.session import load_with_progress
    from twofold.migrate.local import LocalModel

    llm = load_with_progress(
        where, dtype=dtype, context=options["context"], threads=options["threads"], max_sequences=1
    )  # fmt: skip
    return LocalModel(llm, where)


def read_prices(options: dict[str, Any]) -> tuple[str, tuple[Price | None, Price | None]]:
    """Currency, and the prices of the old and the new side. Raises SettingsError."""
    from twofold.bench.prices import own_book, read_book
    from twofold.migrate.figures import find_price

    names = options["old_price"], options["new_price"]
    book = read_book(options["prices"]) if options["prices"] else own_book()
    old, new = (find_price(book, name) if name else None for name in names)
    return book.currency, (old, new)


def told(report: Report) -> str:
    """The verdict and its checks as text."""
    words = {True: "passed", False: "NOT PASSED", None: "nothing to judge"}
    lines = [
        f"{words[check.passed]:>16}  {check.name}: {check.found} (limit: {check.limit})"
        for check in report.verdict.checks
    ]
    reasons = [f"  - {reason}" for reason in report.verdict.reasons]
    return "\n".join(
        [f"old  {report.old}", f"new  {report.new}", *lines, "go" if report.verdict.is_go else "no-go", *reasons]
    )
