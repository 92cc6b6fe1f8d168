"""The options of `twofold serve` about watching it: what the machine costs, and what is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.server.cost import Price

WATCHING = (
    click.option("--price-per-hour", type=float, help="What an hour of this machine costs; turns the cost meter on."),
    click.option("--currency", help="Currency of --price-per-hour. [default: USD]"),
    click.option("--price-class", metavar="NAME", help="Take the price of this machine from the price book instead."),
    click.option("--prices", type=click.Path(path_type=Path), help="The price book. [default: the one that ships]"),
    click.option(
        "--log-format", type=click.Choice(("text", "json")), default="text", show_default=True,
        help="Form of the log's lines on stderr.",
    ),
    click.option(
        "--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True,
        help="What is logged; info has a line per request, debug the health checks too.",
    ),
)  # fmt: skip


def start_logging(options: Mapping[str, Any]) -> Callable[[str], None]:
    """Set the log up; gives what tells the phases of the start: in text plainly on stderr, in JSON as lines of it."""
    from twofold.server.logs import configure

    configure(options["log_format"], options["log_level"])
    log = logging.getLogger("twofold.start")

    def tell(text: str) -> None:
        if options["log_format"] == "text":
            click.echo(text, err=True)
        else:
            is_warning = text.startswith("warning: ")
            log.log(logging.WARNING if is_warning else logging.INFO, text.removeprefix("warning: "))

    return tell


def read_price(options: Mapping[str, Any]) -> Price | None:
    """The price the operator gave in one of two ways; None without. Raises SettingsError."""
    from twofold.bench.prices import own_book, read_book
    from twofold.server.cost import Price

    per_hour, currency = options["price_per_hour"], options["currency"]
    book, name = options["prices"], options["price_class"]
    if per_hour is not None:
        if book or name:
            raise SettingsError("--price-per-hour and --price-class name two prices; give one")
        return Price(per_hour=per_hour, currency=currency or "USD")
    if currency:
        raise SettingsError("--currency belongs to --price-per-hour; a price book has its own")
    if name is None:
        if book:
            raise SettingsError("--prices needs --price-class NAME, the machine of the book that this one is")
        return None
    chosen = read_book(book) if book else own_book()
    machine = chosen.machine(name)
    told = f"{name}: {machine.source}, noted {machine.noted}"
    return Price(per_hour=machine.per_hour, currency=chosen.currency, name=told)
