"""twofold quantize: a checkpoint in, a smaller one out, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="Examples:  twofold quantize ./Llama-4-Scout -o scout-w4a8 --calibration text.jsonl  |  "
    "twofold quantize demo -o demo-mixed --scheme mixed --budget 4.5bit"
)
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist."
)
@click.option(
    "--scheme",
    type=click.Choice(["w4a8", "w8a8", "fp8", "w4a16", "mixed"]),
    default="w4a8",
    show_default=True,
    help="Bits of the weights; w8a8, fp8 and w4a16 are written as compressed-tensors.",
)
@click.option(
    "--budget",
    help="What mixed may take: bits per weight (4.3bit), bytes of weights (60GB), or the smallest with a KL divergence "
    "(kl=0.02). [default: as many bytes as w4a8]",
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
def command(
    model: str,
    output: Path,
    scheme: str,
    budget: str | None,
    method: str,
    transform: str,
    calibration: Path | None,
) -> None:
    """Quantise MODEL into a folder that loads as it is, with a report of what was done to every matrix.

    One decoder layer is in memory at a time. A run that was killed goes on where it stopped when the same command is
    given again. With the scheme mixed, what rounding each part of the network costs is measured first, and bits go
    where they save most.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from twofold.demo import calibration_file
    from twofold.quant.recipe import Recipe
    from twofold.quant.report import REPORT
    from twofold.quantising import quantise_model

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("quantising", total=None)
        quantise_model(
            model,
            output,
            Recipe(scheme, method, calibration or calibration_file(), budget, transform),
            lambda unit, done, total: bar.update(task, description=unit, completed=done, total=total),
        )
    if method == "gptq":
        try_kv_cache(output, calibration or calibration_file())
    report = json.loads((output / REPORT).read_text())
    rare = len(report["rare_experts"])
    click.echo(
        f"{output}: {report['size_bytes'] / 1e6:,.1f} MB, {scheme}, {len(report['matrices'])} matrices quantised"
    )
    if "choice" in report:
        choice = report["choice"]
        click.echo(
            f"{choice['budget']}: {choice['bits_per_weight']:.3f} bits per weight, KL divergence "
            f"{choice['predicted_kl']:.4f} predicted, {choice['measured_kl']:.4f} measured on "
            f"{choice['tokens']:,} tokens of calibration text kept apart"
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
