"""twofold quantize: a checkpoint in, a smaller one out, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="Examples:  twofold quantize ./Llama-4-Scout -o scout-w4a8 --calibration text.jsonl  |  "
    "twofold quantize demo -o demo-w8a8 --scheme w8a8"
)
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist."
)
@click.option(
    "--scheme",
    type=click.Choice(["w4a8", "w8a8", "fp8", "w4a16"]),
    default="w4a8",
    show_default=True,
    help="Bits of the weights; all but w4a8 are written as compressed-tensors.",
)
@click.option(
    "--method",
    type=click.Choice(["gptq", "round"]),
    default="gptq",
    show_default=True,
    help="gptq looks at calibration text; round takes the nearest codes.",
)
@click.option(
    "--transform",
    type=click.Choice(["none", "rotate", "smooth"]),
    default="none",
    show_default=True,
    help="Folded into the weights first: rotate mixes all channels, smooth evens out activations and weights.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Text file, or JSON lines of {text} or {messages}. [default: the demo model's calibration text]",
)
def command(model: str, output: Path, scheme: str, method: str, transform: str, calibration: Path | None) -> None:
    """Quantise MODEL into a folder that loads as it is, with a report of what was done to every matrix.

    One decoder layer is in memory at a time. A run that was killed goes on where it stopped when the same command is
    given again.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from twofold.demo import calibration_file
    from twofold.quant.report import REPORT
    from twofold.quantising import quantise_model

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("quantising", total=None)
        quantise_model(
            model,
            output,
            scheme,
            method,
            calibration or calibration_file(),
            lambda unit, done, total: bar.update(task, description=unit, completed=done, total=total),
            transform,
        )
    if method == "gptq":
        try_kv_cache(output, calibration or calibration_file())
    report = json.loads((output / REPORT).read_text())
    rare = len(report["rare_experts"])
    click.echo(
        f"{output}: {report['size_bytes'] / 1e6:,.1f} MB, {scheme}, {len(report['matrices'])} matrices quantised"
    )
    if rare:
        click.echo(f"{rare} expert matrices saw few calibration tokens and got more by forced routing; see {REPORT}")


def try_kv_cache(folder: Path, text: Path) -> None:
    """Test int8 keys and values on the calibration text, so that they are used where they cost nothing."""
    from twofold.cli.gate import gate_kv_cache
    from twofold.errors import OutOfMemory, SettingsError
    from twofold.text.rows import read_rows

    try:
        click.echo(gate_kv_cache(folder, read_rows(text)).in_words())
    except (OutOfMemory, SettingsError) as error:
        click.echo(f"int8 keys and values were not tested: {error} Later: twofold eval {folder} --gate-kv --text FILE")
