"""twofold bench: how fast a model runs on this machine, and how close to its limits."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.options import LOADING, with_options

if TYPE_CHECKING:
    from twofold.bench.speed import Speed


@click.command(epilog="Examples:  twofold bench demo  |  twofold bench ./model --dtype w4a8 --context 8192 --json")
@click.argument("model")
@with_options(*LOADING)
@click.option("--repeats", default=3, show_default=True, help="Runs of each workload; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
def command(model: str, repeats: int, as_json: bool, **loading: Any) -> None:
    """Measure MODEL: prefill, decode alone and in batches, decode at depth, start-up and peak memory.

    Nothing is guessed here: every token is one step of the network. Decode is set against the memory's read limit and
    prefill against the int8 limit, both measured in the same run.
    """
    from rich.console import Console

    from twofold.bench.speed import measure_all, peak_memory_bytes, workloads
    from twofold.cli.session import load_with_progress

    if repeats < 1:
        raise click.UsageError("--repeats must be at least 1")
    llm = load_with_progress(model, guess_tokens=0, **loading)
    with Console(stderr=True).status("measuring") as status:
        chosen = workloads(llm.loaded.settings.context)
        found = list(measure_all(llm, chosen, repeats, lambda name: status.update(f"measuring {name}")))
    facts = {
        "model": model,
        "dtype": llm.loaded.settings.dtype,
        "kv_cache_dtype": llm.loaded.settings.kv_cache_dtype,
        "load_s": round(llm.loaded.load_seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        **limits(llm.loaded.settings.backend),
    }
    if as_json:
        click.echo(json.dumps({**facts, "speeds": [asdict(item) for item in found]}))
    else:
        show(facts, found)


def limits(backend: str) -> dict[str, Any]:
    """The machine's limits, measured now; they say nothing about the reference backend."""
    if backend != "cpu":
        return {"cpu": None, "read_limit_bytes_per_s": None, "int8_limit_ops_per_s": None}
    from twofold.backends.cpu import machine

    return {
        "cpu": machine.cpu().name,
        "isa": machine.cpu().chosen_isa,
        "threads": machine.cpu().threads,
        "read_limit_bytes_per_s": round(machine.measure_read(2**30)),
        "int8_limit_ops_per_s": round(machine.measure_int8()),
    }


def show(facts: dict[str, Any], found: list[Speed]) -> None:
    """A table with shares of the limits, then start-up and memory."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{facts['model']}, {facts['dtype']}, {facts['kv_cache_dtype']} cache", title_justify="left")
    for name in ("workload", "tokens/s", "slowest to fastest", "load on the machine", "share of its limit"):
        table.add_column(name, justify="left" if name == "workload" else "right")
    for item in found:
        load, share = machine_load(item, facts)
        table.add_row(
            item.name, f"{item.tokens_per_s:,.1f}", f"{item.slowest:,.1f} to {item.fastest:,.1f}", load, share
        )
    Console().print(table)
    if facts["cpu"]:
        click.echo(f"{facts['cpu']}, {facts['isa']}, {facts['threads']} threads: memory read limit "
                   f"{facts['read_limit_bytes_per_s'] / 1e9:.1f} GB/s, int8 limit "
                   f"{facts['int8_limit_ops_per_s'] / 1e12:.2f} TOP/s")  # fmt: skip
    click.echo(f"loaded in {facts['load_s']:.2f} s, peak memory {facts['peak_memory_bytes'] / 1e6:,.0f} MB")


def machine_load(item: Speed, facts: dict[str, Any]) -> tuple[str, str]:
    """What a workload asks of memory or arithmetic, and the share of the limit (int8 for integer weights only)."""
    if item.read_bytes_per_s is not None:
        limit = facts["read_limit_bytes_per_s"]
        return f"{item.read_bytes_per_s / 1e9:.2f} GB/s", f"{item.read_bytes_per_s / limit:.0%}" if limit else ""
    assert item.ops_per_s is not None
    limit = facts["int8_limit_ops_per_s"] if facts["dtype"] in ("w8a8", "w4a8") else None
    return f"{item.ops_per_s / 1e12:.3f} TOP/s", f"{item.ops_per_s / limit:.0%}" if limit else ""
