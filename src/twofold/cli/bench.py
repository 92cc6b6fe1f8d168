"""twofold bench: how fast a model runs on this machine, and how close to its limits."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.options import LOADING, with_options
from twofold.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twofold.api import LLM
    from twofold.bench.guessing import Guessed
    from twofold.bench.proof.model import Interval
    from twofold.bench.speed import Speed


PRESETS = ("chat", "long", "rag", "game", "batch")
GUESSED_TOKENS = 96
"""Tokens of each answer that is measured with guesses."""


@click.command(
    epilog="Examples:  twofold bench demo  |  twofold bench ./model --dtype w4a8 --context 8192 --json  |  "
    "twofold bench http://127.0.0.1:8000 --preset game"
)
@click.argument("model")
@with_options(*LOADING)
@click.option("--repeats", default=3, show_default=True, help="Runs of each workload; the median counts.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Serve MODEL (or take its address) and measure users' requests instead.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
def command(model: str, repeats: int, preset: str | None, as_json: bool, **loading: Any) -> None:
    """Measure MODEL: prefill, decode alone and in batches, decode at depth, start-up and peak memory.

    Nothing is guessed here: every token is one step of the network. Decode is set against the memory's read limit and
    prefill against that of integer products, both measured in the same run. With --draft a second table follows:
    answers without guesses, with prompt look-up, and with the draft model. With --preset it is what users of a server
    see: time to the first token, between tokens, tokens and requests per second, as `twofold prove` measures them.
    """
    from rich.console import Console

    from twofold.bench.speed import measure_all, peak_memory_bytes, workloads
    from twofold.cli.session import load_with_progress

    if repeats < 1:
        raise click.UsageError("--repeats must be at least 1")
    if preset is not None:
        show_served(measure_served(model, preset, repeats, loading), as_json)
        return
    if loading["draft"] is None:
        loading["guess_tokens"] = 0
    llm = load_with_progress(model, **loading)
    start_s = time.perf_counter()
    llm.settle()
    settled_s = time.perf_counter() - start_s
    guesser, llm.engine.guesser = llm.engine.guesser, None
    with Console(stderr=True).status("measuring") as status:
        chosen = workloads(llm.loaded.settings.context)
        found = list(measure_all(llm, chosen, repeats, lambda name: status.update(f"measuring {name}")))
        llm.engine.guesser = guesser
        guessed = list(measure_guesses(llm, repeats, lambda name: status.update(f"measuring {name}")))
    facts = {
        "model": model,
        "dtype": llm.loaded.settings.dtype,
        "kv_cache_dtype": llm.loaded.settings.kv_cache_dtype,
        "load_s": round(llm.loaded.load_seconds, 3),
        "settled_s": round(llm.loaded.load_seconds + settled_s, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        **limits(llm.loaded.settings.backend),
    }
    if as_json:
        guessing = {"draft": loading["draft"], "guessing": [asdict(item) for item in guessed]} if guessed else {}
        click.echo(json.dumps({**facts, "speeds": [asdict(item) for item in found], **guessing}))
        return
    show(facts, found)
    if guessed:
        show_guesses(guessed)


def measure_served(model: str, preset: str, rounds: int, loading: dict[str, Any]) -> dict[str, Interval]:
    """Figures of a server with this model. SettingsError for options that a server here cannot get."""
    from tempfile import TemporaryDirectory

    from twofold.bench.proof.alone import measure_alone
    from twofold.bench.proof.contenders import read_candidate
    from twofold.bench.proof.workload import preset_workload

    own = ("backend", "device", "kv_cache_dtype", "context", "ranks", "expert_split", "expert_cache", "draft")
    spec = read_candidate(model, loading["dtype"], loading["threads"], "", "")
    is_address, changed = spec.engine == "endpoint", [name for name, value in loading.items() if value is not None]
    if is_address and changed:
        raise SettingsError(f"the server at an address is measured as it is; leave out --{changed[0]}")
    options = {name.replace("_", "-"): str(loading[name]) for name in own if loading[name] is not None}
    with TemporaryDirectory() as logs:
        workload = preset_workload(preset, None, None, None)
        tell = partial(click.echo, err=True)
        return measure_alone(replace(spec, options=options), workload, rounds, Path(logs), tell)


def show_served(found: dict[str, Interval], as_json: bool) -> None:
    """A line per figure, or one JSON line."""
    from twofold.bench.proof.model import METRICS

    if as_json:
        click.echo(json.dumps({name: asdict(item) for name, item in found.items()}))
        return
    for name, item in found.items():
        title = f"{METRICS[name].title}, {METRICS[name].unit}"
        click.echo(f"{title:42} {item.median:>12,.2f}   [{item.low:,.2f}, {item.high:,.2f}]")


def measure_guesses(llm: LLM, repeats: int, progress: Callable[[str], None]) -> Iterator[Guessed]:
    """Answers with and without guesses; nothing without a draft model."""
    from twofold.api import SamplingParams
    from twofold.bench.guessing import TASKS, measure_guessing, task_prompts, usual_ways

    if llm.draft is None:
        return
    prompts = task_prompts(llm)
    room = llm.loaded.settings.context - max(len(ids) for many in prompts.values() for ids in many)
    if room < GUESSED_TOKENS:
        raise SettingsError(
            f"the context of {llm.loaded.settings.context} leaves {room} tokens for answers to {', '.join(TASKS)}; "
            f"{GUESSED_TOKENS} are measured with --draft. Raise --context."
        )
    params = SamplingParams(temperature=0.0, max_tokens=GUESSED_TOKENS, ignore_eos=True)
    yield from measure_guessing(llm, prompts, params, repeats, progress, usual_ways)


def show_guesses(found: list[Guessed]) -> None:
    """A table of what guessing gained, by kind of text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="guessing: greedy answers of one sequence", title_justify="left")
    for name in ("text", "way", "tokens/s", "tokens a step", "look-up right", "draft right", "draft time"):
        table.add_column(name, justify="left" if name in ("text", "way") else "right")
    for item in found:
        right = [
            f"{item.accepted[source]} of {item.proposed[source]}" if item.proposed.get(source) else ""
            for source in ("lookup", "draft")
        ]
        per_step = f"{item.tokens / item.steps:.2f}"
        drafted = f"{item.draft_s:.2f} s" if item.draft_s else ""
        table.add_row(item.task, item.way, f"{item.tokens_per_s:,.1f}", per_step, *right, drafted)
    Console().print(table)


def limits(backend: str) -> dict[str, Any]:
    """The machine's limits, measured now; they say nothing about the reference backend."""
    if backend != "cpu":
        return {"cpu": None, "read_limit_bytes_per_s": None, "int8_limit_ops_per_s": None, "int4_limit_ops_per_s": None}
    from twofold.backends.cpu import machine

    return {
        "cpu": machine.cpu().name,
        "isa": machine.cpu().chosen_isa,
        "threads": machine.cpu().threads,
        "read_limit_bytes_per_s": round(machine.measure_read(2**30)),
        "int8_limit_ops_per_s": round(machine.measure_int8()),
        "int4_limit_ops_per_s": round(machine.measure_int4()),
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
                   f"{facts['int8_limit_ops_per_s'] / 1e12:.2f} TOP/s, with four-bit weights "
                   f"{facts['int4_limit_ops_per_s'] / 1e12:.2f} TOP/s")  # fmt: skip
    copied = f", copied after {facts['settled_s']:.2f} s" if facts["settled_s"] > facts["load_s"] + 0.01 else ""
    click.echo(f"loaded in {facts['load_s']:.2f} s{copied}, peak memory {facts['peak_memory_bytes'] / 1e6:,.0f} MB")


def machine_load(item: Speed, facts: dict[str, Any]) -> tuple[str, str]:
    """What a workload asks of memory or arithmetic, and the share of the limit (integer weights only)."""
    if item.read_bytes_per_s is not None:
        limit = facts["read_limit_bytes_per_s"]
        return f"{item.read_bytes_per_s / 1e9:.2f} GB/s", f"{item.read_bytes_per_s / limit:.0%}" if limit else ""
    assert item.ops_per_s is not None
    limit = facts.get({"w8a8": "int8_limit_ops_per_s", "w4a8": "int4_limit_ops_per_s"}.get(facts["dtype"], ""))
    return f"{item.ops_per_s / 1e12:.3f} TOP/s", f"{item.ops_per_s / limit:.0%}" if limit else ""
