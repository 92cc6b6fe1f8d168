"""twofold plan: what a model would need, do and cost, here and elsewhere, before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.config import DEFAULT_CONTEXT, KV_DTYPES
from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.bench.catalogue import Sheet
    from twofold.bench.efficiency import Efficiency
    from twofold.bench.plan import Outcome, Place, Wish
    from twofold.bench.prices import PriceBook
    from twofold.bench.roofline import Network
    from twofold.blueprint import Blueprint

THIS, ALL = "this", "all"
WISHES = ("users", "tokens_per_second", "budget_per_month", "budget_per_million")
POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command(
    epilog="Examples:  twofold plan ./config.json  |  twofold plan MODEL --on nvidia-h100-80gb --context 32768  |  "
    "twofold plan MODEL --users 20 --tokens-per-second 15  |  twofold plan MODEL --users 8 --budget-per-month 500"
)
@click.argument("model")
@click.option(
    "--on",
    multiple=True,
    metavar="MACHINE",
    help="this (measured now), a name of the catalogue, or all; may be given several times. "
    "[default: this; all, where users, a speed or a budget is wished for]",
)
@click.option("--scheme", help="Only this scheme. [default: bf16, w8a8, w4a8, fp8, and what the files hold]")
@click.option("--users", type=click.IntRange(1, 10**6), help="So many are answered at the same time.")
@click.option(
    "--context", type=click.IntRange(1), help="Tokens of each user's text. [default: the model's, at most 8192]"
)
@click.option("--kv-cache-dtype", type=click.Choice(KV_DTYPES), default="bf16", show_default=True,
              help="How keys and values are kept.")  # fmt: skip
@click.option("--tokens-per-second", type=POSITIVE, help="Each user gets at least this. [default: 10]")
@click.option("--budget-per-month", type=POSITIVE, help="Most that all machines may cost in a month of 730 hours.")
@click.option("--budget-per-million", type=POSITIVE, help="Most that a million tokens of output may cost.")
@click.option("--price-per-hour", type=POSITIVE, help="What an hour of this machine costs.")
@click.option("--prices", type=click.Path(path_type=Path), help="The price book. [default: the one that ships]")
@click.option("--catalogue", type=click.Path(path_type=Path), help="The machines. [default: those that ship]")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with everything instead of tables.")
def command(model: str, as_json: bool, **options: Any) -> None:
    """Tell what MODEL needs, does and costs, from its config alone.

    MODEL is a config.json, a folder with one, a GGUF file, a hub id whose config is in the hub's cache, or demo.
    Nothing is downloaded and no weight is read. With a wish (users, speed, budget) the cheapest machine and scheme
    that meet it are named, and what is missing elsewhere. Every prediction has a range: how far predictions were off
    where they were checked, and more for machines that are known from a data sheet only.
    """
    from twofold.bench.efficiency import own_efficiency
    from twofold.bench.prices import own_book, read_book
    from twofold.blueprint import read_blueprint
    from twofold.cli.plan_table import as_lines, show

    blueprint = read_blueprint(model)
    wish, schemes = read_wish(blueprint, options), chosen_schemes(blueprint, options["scheme"])
    efficiency = own_efficiency()
    book = read_book(options["prices"]) if options["prices"] else own_book()
    names = options["on"] or ((ALL,) if any(options[name] is not None for name in WISHES) else (THIS,))
    places = find_places(names, efficiency, book, options)
    networks = {name: network_of(blueprint, name) for name in schemes}
    outcomes = judge(networks, places, efficiency, wish)
    if as_json:
        click.echo(as_lines(blueprint, networks, outcomes, wish, book.currency))
        return
    show(blueprint, networks, outcomes, wish, book.currency, is_search=not options["on"] and names == (ALL,))


def read_wish(blueprint: Blueprint, options: Mapping[str, Any]) -> Wish:
    """The wish; SettingsError for a context longer than the model's."""
    from twofold.bench.plan import Wish

    context = options["context"] or min(DEFAULT_CONTEXT, blueprint.context)
    if context > blueprint.context:
        raise SettingsError(f"context is {context}; this model was made for at most {blueprint.context} tokens")
    return Wish(
        users=options["users"] or 1,
        context=context,
        kv_dtype=options["kv_cache_dtype"],
        rate_tokens_per_s=options["tokens_per_second"],
        per_month=options["budget_per_month"],
        per_million=options["budget_per_million"],
    )


def chosen_schemes(blueprint: Blueprint, scheme: str | None) -> Sequence[str]:
    """The schemes to plan for; SettingsError for one that cannot be planned."""
    if scheme is None:
        return blueprint.schemes
    if scheme not in blueprint.schemes:
        raise SettingsError(
            f"scheme is {scheme!r}; it must be one of {', '.join(blueprint.schemes)}. mixed takes as many bytes as "
            "w4a8 unless its budget says otherwise; where they go is measured when it is written"
        )
    return (scheme,)


def network_of(blueprint: Blueprint, scheme: str) -> Network:
    """The network in one scheme, counted."""
    from twofold.bench.roofline import build_network

    sizes = (blueprint.layers, blueprint.hidden, blueprint.heads)
    experts = (blueprint.expert_count, blueprint.active_experts)
    return build_network(blueprint.targets, blueprint.formats(scheme), sizes, experts, blueprint.cache_shape)


def find_places(
    names: Sequence[str], efficiency: Efficiency, book: PriceBook, options: Mapping[str, Any]
) -> Sequence[Place]:
    """The machines that are asked for, each once; only `this` is measured."""
    from twofold.bench.catalogue import find_machine, own_catalogue, read_catalogue
    from twofold.bench.plan import place_of

    catalogue: Mapping[str, Sheet] = read_catalogue(options["catalogue"]) if options["catalogue"] else own_catalogue()
    found: dict[str, Place] = {}
    for name in names:
        if name == THIS:
            found[THIS] = measure_here(efficiency, options["price_per_hour"])
        elif name == ALL:
            found |= {key: place_of(sheet, efficiency, book) for key, sheet in catalogue.items()}
        else:
            found[name] = place_of(find_machine(catalogue, name), efficiency, book)
    if options["price_per_hour"] is not None and THIS not in found:
        raise SettingsError("--price-per-hour is the price of this machine; add --on this")
    return tuple(found.values())


def measure_here(efficiency: Efficiency, per_hour: float | None) -> Place:
    """This machine, its limits measured now, its memory as it is free now."""
    from rich.console import Console

    from twofold.backends.cpu import machine
    from twofold.bench.floats import measure_float
    from twofold.bench.plan import Place
    from twofold.bench.roofline import Limits
    from twofold.weights.memory import available_memory

    free = available_memory()
    with Console(stderr=True).status("measuring how fast this machine reads memory") as status:
        read = machine.measure_read(2**30)
        status.update("measuring how fast this machine multiplies")
        int8, int4 = machine.measure_int8(), machine.measure_int4()
        floats = measure_float() * machine.cpu().bf16_over_float32
    return Place(
        name=THIS,
        limits=Limits(
            read_bytes_per_s=read,
            int8_ops_per_s=int8,
            int4_ops_per_s=int4,
            float_ops_per_s=floats,
            fp8_ops_per_s=floats,
        ),
        memory_bytes=float(free),
        shares=efficiency.shares,
        unsure=1.0,
        state=f"{machine.cpu().name}, {machine.cpu().chosen_isa}",
        per_hour=per_hour,
        price_note="rent" if per_hour else "no price",
        is_measured=True,
    )


def judge(
    networks: Mapping[str, Network], places: Sequence[Place], efficiency: Efficiency, wish: Wish
) -> list[Outcome]:
    """Every scheme on every machine."""
    from twofold.bench.plan import evaluate

    return [evaluate(network, name, place, efficiency, wish) for place in places for name, network in networks.items()]
