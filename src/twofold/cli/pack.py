"""twofold pack: a folder that starts at once."""

from __future__ import annotations

from pathlib import Path

import click

from twofold.config import DTYPES


@click.command(epilog="Example:  twofold pack meta-llama/Llama-3.2-1B-Instruct -o llama-1b-w4a8 --dtype w4a8")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist."
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Bits of the weights. [default: w4a8, or as quantised]")
def command(model: str, output: Path, dtype: str | None) -> None:
    """Pack MODEL once, so that every later start reads its weights as they are, at the disk's or the memory's speed.

    The folder holds everything needed (weights, config, tokenizer, chat template) and is used like any other:
    twofold run OUTPUT "prompt".
    """
    from twofold.cli.session import progress_bar
    from twofold.loading import pack_model

    with progress_bar("packing") as report:
        folder = pack_model(model, output, dtype, report)
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"{folder}: {size / 1e6:,.1f} MB")
