"""twofold export: the network as an ONNX graph for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.export.forms import Form


class ModelOrVerb(click.Group):
    """`export MODEL ...` means `export write MODEL ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `write` in front of what is no verb of this group."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["write", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=ModelOrVerb,
    epilog="Examples:  twofold export demo -o demo-onnx  |  twofold export ./model -o model-onnx --target onnxruntime "
    "--dtype int4  |  twofold run demo-onnx 'Hello!'",
)
def command() -> None:
    """Write a model as an ONNX graph: twofold export MODEL -o DIR (the verb write may be left out)."""


@command.command(epilog="Example:  twofold export ./Llama-4-Scout -o scout-onnx --target onnxruntime --dtype int4")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist."
)
@click.option(
    "--target",
    type=click.Choice(["portable", "onnxruntime"]),
    default="portable",
    show_default=True,
    help="portable: standard operators only, for any engine; onnxruntime: its own fast operators too.",
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16", "int4", "int8", "fp8"]),
    default="f32",
    show_default=True,
    help="Bits of the weights; activations are float32, or what the engine makes of them.",
)
def write(model: str, output: Path, target: str, dtype: Form) -> None:
    """Write MODEL as a graph with its weights, config, tokenizer and template, one matrix in memory at a time.

    Prefill and decode are one graph with any batch and length. The folder runs like any other model:
    twofold run OUTPUT "prompt".
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from twofold.exporting import export_model

    console = Console(stderr=True)
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TextColumn("matrices"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=None)
        try:
            folder = export_model(
                model, output, target, dtype, lambda done, total: bar.update(task, completed=done, total=total)
            )
        except OSError as error:
            raise SettingsError(f"{output} cannot be written: {error}") from error
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"{folder}: {size / 1e6:,.1f} MB, {target}, {dtype}")
