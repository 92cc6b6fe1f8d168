"""How `twofold plan` shows what it found: tables for a terminal, or one JSON line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import click

from twofold.cli.info import readable

if TYPE_CHECKING:
    from twofold.bench.plan import Figure, Outcome, Place, Wish
    from twofold.bench.roofline import Network
    from twofold.blueprint import Blueprint

SHOWN = 8
"""Machines that meet a wish and are listed unless all are asked for."""


def show(
    blueprint: Blueprint,
    networks: Mapping[str, Network],
    outcomes: Sequence[Outcome],
    wish: Wish,
    currency: str,
    *,
    is_search: bool,
) -> None:
    """Bytes, then what each machine would do; for a search the answer, then the machines that meet the wish."""
    show_head(blueprint, networks)
    places = {item.place.name: item.place for item in outcomes}
    if len(places) > 2:
        show_answer(outcomes, wish, currency)
        show_machines(outcomes, currency, SHOWN if is_search else len(places))
        return
    show_bytes(blueprint, networks, wish)
    for place in places.values():
        show_place(place, [item for item in outcomes if item.place is place], wish, currency)


def show_head(blueprint: Blueprint, networks: Mapping[str, Network]) -> None:
    """What the network is, and warnings."""
    counted = next(iter(networks.values())).whole
    click.echo(f"{blueprint.kind}: {blueprint.layers} layers, {counted.total_parameters:,} parameters, "
               f"{counted.read_parameters_per_token:,} of them read per token")  # fmt: skip
    for warning in blueprint.warnings:
        click.echo(f"warning: {warning}")


def show_bytes(blueprint: Blueprint, networks: Mapping[str, Network], wish: Wish) -> None:
    """Bytes of each part in each scheme, of one user's keys and values, and of the files as published."""
    from rich.table import Table

    from twofold.bench.published import published_sizes
    from twofold.bench.roofline import cache_pool_bytes
    from twofold.ops.types import Role

    counted = {name: network.whole for name, network in networks.items()}
    first = next(iter(counted.values()))
    table = Table("part", title="Bytes in memory", title_justify="left")
    for name in networks:
        table.add_column(name, justify="right")
    for role in get_args(Role):
        if role in first.bytes:
            table.add_row(role, *(readable(item.bytes[role]) for item in counted.values()))
    table.add_section()
    table.add_row("all weights", *(readable(item.total_bytes) for item in counted.values()))
    table.add_row("read per token", *(readable(item.read_bytes_per_token) for item in counted.values()))
    cache = [readable(cache_pool_bytes(item, 1, wish.context, wish.kv_dtype)) for item in networks.values()]
    table.add_row(f"cache of {wish.context:,} tokens, {wish.kv_dtype}", *cache)
    console().print(table)
    sizes = published_sizes(first, blueprint.vision_parameters)
    files = [f"{name} {readable(size)}" for name, size in sizes.items() if not name.startswith("text")]
    click.echo(f"Files as published: {', '.join(files)}")


def show_place(place: Place, outcomes: Sequence[Outcome], wish: Wish, currency: str) -> None:
    """One machine: its limits, and every scheme on it."""
    from rich.table import Table

    limits = place.limits
    how = "measured now" if place.is_measured else "what can be reached of the data sheet"
    click.echo("")
    table = Table("scheme", title=f"{place.name}: {place.state}", title_justify="left")
    for name in ("memory", "prefill tokens/s", "decode tokens/s", "users", "tokens/s of all", "1M input", "1M output"):
        table.add_column(name, justify="right")
    for item in outcomes:
        if not item.fits:
            table.add_row(item.scheme, f"{readable(item.memory_bytes)}, does not fit", *[""] * 6)
            continue
        table.add_row(
            item.scheme, readable(item.memory_bytes), told(item.prefill), told(item.decode), str(item.users),
            told(item.total_tokens_per_s), money(item.input_per_million), money(item.output_per_million),
        )  # fmt: skip
    console().print(table)
    click.echo(f"Limits, {how}: {limits.read_bytes_per_s / 1e9:,.1f} GB/s, int8 {limits.int8_ops_per_s / 1e12:,.2f} "
               f"TOP/s, int4 {limits.int4_ops_per_s / 1e12:,.2f} TOP/s, floats {limits.float_ops_per_s / 1e12:,.2f} "
               f"TFLOP/s; {place.memory_bytes / 1e9:,.1f} GB of memory for a model")  # fmt: skip
    click.echo(f"At {wish.context:,} tokens of context; users: the most that each get {wish.rate:g} tokens/s. "
               f"{price_told(place, currency)}")  # fmt: skip
    if has_wish(wish):
        for item in outcomes:
            click.echo(f"{item.scheme}: {verdict(item, currency)}")


def price_told(place: Place, currency: str) -> str:
    """What prices stand on."""
    if place.per_hour is None:
        return "No price is known: give --price-per-hour." if place.is_measured else "No price is known."
    return f"Prices in {currency}: {place.per_hour:.4g} per hour ({place.price_note}), at full use."


def show_answer(outcomes: Sequence[Outcome], wish: Wish, currency: str) -> None:
    """The cheapest way, the cheapest that runs today, or what is missing."""
    from twofold.bench.plan import cheapest, nearest

    click.echo("")
    wanted = f"{wish.users} user{'s' if wish.users > 1 else ''} at {wish.rate:g} tokens/s each, {wish.context:,} tokens"
    today = cheapest([item for item in outcomes if item.place.runs])
    best = cheapest(outcomes)
    if today is not None:
        click.echo(f"Cheapest for {wanted}: {answer(today, currency)}")
    elif best is not None:
        click.echo(f"No machine with a price on which twofold runs today meets {wanted}.")
    if best is not None and best is not today:
        click.echo(f"{'Cheaper still, but' if today else 'Cheapest, but'} {best.place.state}: {answer(best, currency)}")
    if best is None:
        near = nearest(outcomes)
        click.echo(f"Nothing with a price meets {wanted}. Nearest: {near.place.name}, {near.scheme}: "
                   f"{near.why or 'it meets it, but has no price'}")  # fmt: skip


def answer(item: Outcome, currency: str) -> str:
    """One way to meet a wish, in a line."""
    count = f"{item.machines} x " if item.machines and item.machines > 1 else ""
    assert item.per_month is not None
    return (
        f"{count}{item.place.name}, {item.scheme}: {item.per_month:,.0f} {currency} a month, "
        f"{money(item.output_per_million)} per 1M output tokens, {told(item.decode)} tokens/s for one user alone, "
        f"users each: {item.users}"
    )


def show_machines(outcomes: Sequence[Outcome], currency: str, most: int) -> None:
    """Machines that meet the wish, cheapest first, with their best scheme; then those that do not, and why."""
    from rich.table import Table

    best = best_by_machine(outcomes)
    meeting = [item for item in best if item.meets]
    table = Table("machine", "scheme", title=f"Meet the wish ({len(meeting)} of {len(best)} machines)",
                  title_justify="left")  # fmt: skip
    for name in ("machines", "users each", "decode tokens/s", "a month", "1M input", "1M output"):
        table.add_column(name, justify="right")
    table.add_column("twofold there")
    for item in meeting[:most]:
        table.add_row(
            item.place.name, item.scheme, str(item.machines), str(item.users), told(item.decode), money(item.per_month),
            money(item.input_per_million), money(item.output_per_million), f"{item.place.state}{note(item)}",
        )  # fmt: skip
    if meeting:
        console().print(table)
        click.echo(f"Prices in {currency}, as the price book has them, at full use.")
    if len(meeting) > most:
        click.echo(f"{len(meeting) - most} more: --on all lists them.")
    failing = [item for item in best if not item.meets]
    shown = failing if most >= len(best) else nearest_of_each(failing)
    for item in shown:
        click.echo(f"not {item.place.name}, {item.scheme}: {item.why}")
    if len(shown) < len(failing):
        click.echo(f"and {len(failing) - len(shown)} more that fall short likewise: --on all lists them.")


def best_by_machine(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The best scheme of each machine: the cheapest that meets the wish, else the nearest; rented ones first."""
    from twofold.bench.plan import closeness, cost_order

    by_place: dict[str, list[Outcome]] = {}
    for item in outcomes:
        by_place.setdefault(item.place.name, []).append(item)

    def order(item: Outcome) -> tuple[Any, ...]:
        near = cost_order(item) if item.meets else closeness(item)
        return not item.meets, item.place.price_note != "rent", near

    return sorted((min(items, key=order) for items in by_place.values()), key=order)


def nearest_of_each(failing: Iterable[Outcome]) -> list[Outcome]:
    """For each kind of reason the machine that is nearest to the wish."""
    found: dict[str, Outcome] = {}
    for item in failing:
        found.setdefault(item.missing[0].kind, item)
    return list(found.values())


def verdict(item: Outcome, currency: str) -> str:
    """Whether a wish is met, in a line."""
    if item.missing:
        return f"does not meet the wish. {item.why}"
    cost = f", {item.per_month:,.2f} {currency} a month" if item.per_month is not None else ""
    return f"meets the wish with {item.machines} machine{'s' if item.machines != 1 else ''}{cost}"


def note(item: Outcome) -> str:
    """What a price does not hold."""
    return "" if item.place.price_note == "rent" else f" ({item.place.price_note})"


def has_wish(wish: Wish) -> bool:
    """Whether anything was asked for beyond a description."""
    return wish.users > 1 or any(
        item is not None for item in (wish.rate_tokens_per_s, wish.per_month, wish.per_million)
    )


def told(figure: Figure) -> str:
    """A prediction with its range."""
    return f"{short(figure.value)} ({short(figure.low)} to {short(figure.high)})"


def short(value: float) -> str:
    """Three digits are more than is known."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def money(value: float | None) -> str:
    """An amount; nothing where it is not known."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def as_lines(
    blueprint: Blueprint, networks: Mapping[str, Network], outcomes: Sequence[Outcome], wish: Wish, currency: str
) -> str:
    """All of it as one JSON line."""
    from twofold.bench.plan import cheapest
    from twofold.bench.published import nominal_reads, published_sizes
    from twofold.bench.roofline import cache_pool_bytes

    first = next(iter(networks.values()))
    best, today = cheapest(outcomes), cheapest([item for item in outcomes if item.place.runs])
    return json.dumps(
        {
            "model": blueprint.name,
            "kind": blueprint.kind,
            "wish": asdict(wish),
            "currency": currency,
            "parameters": dict(first.whole.parameters),
            "vision_parameters": blueprint.vision_parameters,
            "bytes": {name: dict(network.whole.bytes) for name, network in networks.items()},
            "read_bytes_per_token": {name: network.whole.read_bytes_per_token for name, network in networks.items()},
            "cache_bytes_per_user": cache_pool_bytes(first, 1, wish.context, wish.kv_dtype),
            "nominal_bytes": dict(published_sizes(first.whole, blueprint.vision_parameters)),
            "nominal_read_bytes": {str(bits): size for bits, size in nominal_reads(first.whole).items()},
            "outcomes": [flat(item) for item in outcomes],
            "cheapest": None if best is None else [best.place.name, best.scheme],
            "cheapest_that_runs": None if today is None else [today.place.name, today.scheme],
        }
    )


def flat(item: Outcome) -> dict[str, Any]:
    """An outcome with its machine's name instead of the machine."""
    found = {name: value for name, value in asdict(item).items() if name != "place"}
    place = item.place
    about = {"machine": place.name, "state": place.state, "runs": place.runs, "per_hour": place.per_hour}
    return {**about, "price_note": place.price_note, "limits": asdict(place.limits), **found}


def console() -> Any:
    """A console as wide as the terminal, wide enough for a table where the output is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=160)
