"""twofold eval: how good a model is, and how far it is from another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.options import LOADING, with_options
from twofold.config import DTYPES

if TYPE_CHECKING:
    from twofold.bench.quality import Quality

TASK_SEQUENCES = 16
"""Answers of a task that are generated at once."""


@click.command(
    epilog="Examples:  twofold eval demo --dtype w4a8 --against demo  |  twofold eval ./quantised --against ./original "
    "--text wiki.txt --json  |  twofold eval ./quantised --gate-kv"
)
@click.argument("model")
@click.option("--against", help="Model to compare with: KL divergence and agreement come with it.")
@click.option(
    "--against-dtype",
    type=click.Choice(DTYPES),
    help="Bits of the other model's weights. [default: bf16, or as packed]",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Text file, or JSON lines of {text} or {messages}. [default: the demo model's held-out data]",
)
@click.option("--layers", is_flag=True, help="With --against: the error after every layer too.")
@click.option(
    "--tasks",
    metavar="NAMES",
    help="Tasks of lm-eval, or .yaml files of some, with commas between; then texts are judged only with --text or "
    "--against. Needs pip install 'twofold[eval]'.",
)
@click.option("--limit", type=click.IntRange(min=1), help="With --tasks: the first so many questions of each.")
@click.option(
    "--gate-kv",
    is_flag=True,
    help="Test int8 keys and values against bf16 ones; with a passed test they are used from then on.",
)
@with_options(*LOADING)
@click.option("--json", "as_json", is_flag=True, help="The JSON line only, no table.")
def command(
    model: str,
    against: str | None,
    against_dtype: str | None,
    text: Path | None,
    layers: bool,
    tasks: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Judge MODEL on a text: perplexity, and against another model KL divergence and agreement on the best token.

    Both models are in memory at once and read the text side by side; no logits are stored. With --tasks, the tasks of
    lm-eval. Prints a table and one line of JSON. With --gate-kv the model is compared with itself, and the verdict is
    written into its folder.
    """
    from rich.console import Console

    from twofold.bench.evaluate import errors_by_layer, evaluate
    from twofold.demo import heldout_file
    from twofold.text.rows import read_rows

    limit, gate_kv = loading.pop("limit"), loading.pop("gate_kv")
    check_together(against, against_dtype or layers, tasks, limit)
    if tasks is not None:
        judge_on_tasks(model, tasks, limit, as_json, loading)
        if text is None and against is None:
            return
    rows = read_rows(text or heldout_file())
    if gate_kv:
        show_gate(model, rows, {**loading, "against": against}, as_json)
        return
    llm = load_to_judge(model, loading)
    other = load_to_judge(against, {**loading, "dtype": against_dtype}) if against else None
    with Console(stderr=True).status("reading") as status:
        found = evaluate(llm, rows, other, lambda done: status.update(f"{done:,} tokens read"))
        errors = errors_by_layer(llm, rows, other) if layers and other else []
    facts: dict[str, Any] = {"model": model, "kv_cache_dtype": llm.loaded.settings.kv_cache_dtype}
    if other:
        facts |= {"against": against, "against_dtype": other.loaded.settings.dtype}
    if errors:
        facts["layer_errors"] = [[round(part, 7) for part in pair] for pair in errors]
    if not as_json:
        Console().print(table_of(found, facts))
    click.echo(found.to_json(**facts))


def check_together(against: str | None, needs_other: Any, tasks: str | None, limit: int | None) -> None:
    """UsageError for options without the one they belong to."""
    if needs_other and against is None:
        raise click.UsageError("--layers and --against-dtype need --against")
    if limit and tasks is None:
        raise click.UsageError("--limit needs --tasks")


def judge_on_tasks(model: str, tasks: str, limit: int | None, as_json: bool, loading: dict[str, Any]) -> None:
    """Run tasks of lm-eval; print a table of their figures and a line of JSON."""
    from rich.console import Console
    from rich.table import Table

    from twofold.bench.tasks import check_extra, run_tasks

    check_extra()
    llm = load_to_judge(model, loading, TASK_SEQUENCES)
    found = run_tasks(llm, [name.strip() for name in tasks.split(",")], limit)
    if not as_json:
        table = Table("task", "metric", "value", title=f"{model}, {llm.loaded.settings.dtype}", title_justify="left")
        for name, figures in found.items():
            for metric, value in figures.items():
                table.add_row(name, metric, f"{value:.5g}")
        Console().print(table)
    click.echo(json.dumps({"model": model, "dtype": llm.loaded.settings.dtype, "tasks": found}))


def show_gate(model: str, rows: list[Any], loading: dict[str, Any], as_json: bool) -> None:
    """Test int8 keys and values, and tell the verdict."""
    from dataclasses import asdict

    from twofold.cli.gate import gate_kv_cache

    given = [loading.pop(name) for name in ("against", "kv_cache_dtype", "context", "draft")]
    if any(value is not None for value in given):
        raise click.UsageError(
            "--gate-kv compares the model with itself, in contexts as long as it was made for (at most 16,384); "
            "leave out --against, --context, --kv-cache-dtype and --draft"
        )
    verdict = gate_kv_cache(model, rows, **loading)
    if not as_json:
        click.echo(verdict.in_words())
    click.echo(json.dumps({"model": model, **asdict(verdict)}))


def load_to_judge(model: str, settings: dict[str, Any], max_sequences: int = 1) -> Any:
    """A model whose logits come in stretches that fit the memory, whatever its vocabulary."""
    from twofold.bench.quality import stretch_tokens
    from twofold.cli.session import load_with_progress
    from twofold.loading import open_model

    vocabulary = open_model(model).architecture.vocabulary
    return load_with_progress(model, step_tokens=stretch_tokens(vocabulary), max_sequences=max_sequences, **settings)


def table_of(found: Quality, facts: dict[str, Any]) -> object:
    """The figures that were measured, one per row; errors by layer below."""
    from rich.table import Table

    title = f"{facts['model']}, {found.dtype}, {facts['kv_cache_dtype']} cache"
    if "against" in facts:
        title += f", against {facts['against']}, {facts['against_dtype']}"
    table = Table(title=title, title_justify="left", show_header=False)
    rows = [
        ("tokens judged", f"{found.tokens:,}"),
        ("perplexity", f"{found.perplexity:.4f}"),
        ("loss, nats per token", f"{found.loss:.5f}"),
        ("KL divergence, mean", format_some(found.kl_mean, ".5f")),
        ("KL divergence, 99th percentile", format_some(found.kl_p99, ".5f")),
        ("same best token", format_some(found.agreement, ".2%")),
        ("least expert load (1 is fair)", format_some(found.least_load, ".2f")),
        ("most expert load", format_some(found.most_load, ".2f")),
    ]
    for layer, (attention, feed_forward) in enumerate(facts.get("layer_errors", [])):
        rows.append((f"relative error after layer {layer}", f"{feed_forward:.2e} (attention {attention:.2e})"))
    for name, value in rows:
        if value is not None:
            table.add_row(name, value)
    return table


def format_some(value: float | None, form: str) -> str | None:
    """A figure, or None where it was not measured."""
    return None if value is None else format(value, form)
