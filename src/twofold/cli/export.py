"""twofold export: the network as an ONNX graph for other engines."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.export.forms import Form
    from twofold.verifying import Verdict


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
    """Write a model as an ONNX graph: twofold export MODEL -o DIR (the verb write may be left out).

    `twofold export write --help` tells targets, bits and what else there is to choose.
    """


@command.command(epilog="Example:  twofold export ./Llama-4-Scout -o scout-onnx --target onnxruntime --dtype int4")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist."
)
@click.option(
    "--target",
    type=click.Choice(["portable", "onnxruntime", "genai"]),
    default="portable",
    show_default=True,
    help="portable: standard operators only, for any engine; onnxruntime: its own fast operators too; genai: the same, "
    "driven by ONNX Runtime GenAI.",
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16", "int4", "int8", "fp8"]),
    default="f32",
    show_default=True,
    help="Bits of the weights; activations are float32, or what the engine makes of them.",
)
@click.option(
    "--experts",
    type=click.Choice(["merged", "apart"]),
    help="Experts in int4 or int8. merged: one operator for a layer's, meant for GPUs; apart: each behind an If, "
    "faster on CPUs. [default: merged, but apart for portable, which has no such operator]",
)
def write(model: str, output: Path, target: str, dtype: Form, experts: str | None) -> None:
    """Write MODEL as a graph with its weights, config, tokenizer and template, one matrix in memory at a time.

    Prefill and decode are one graph with any batch and length. The folder runs like any other model:
    twofold run OUTPUT "prompt"; one for genai in ONNX Runtime GenAI instead (docs/export.md).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from twofold.export.manifest import read_manifest
    from twofold.exporting import export_model

    if experts == "merged" and target == "portable":
        raise SettingsError(
            "--experts merged needs an operator of ONNX Runtime's own, and --target portable has standard ones only; "
            "leave --experts out, or choose --target onnxruntime or genai"
        )
    console = Console(stderr=True)
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TextColumn("matrices"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=None)
        try:
            folder = export_model(
                model,
                output,
                target,
                dtype,
                lambda done, total: bar.update(task, completed=done, total=total),
                merges_experts=experts != "apart",
            )
        except OSError as error:
            raise SettingsError(f"{output} cannot be written: {error}") from error
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"{folder}: {size / 1e6:,.1f} MB, {target}, {dtype}")
    rounded = read_manifest(folder).rounded
    if rounded:
        click.echo(
            f"note: {len(rounded)} weights have four-bit codes with zero points, which int4 in a graph has no "
            f"room for; they were rounded again. What that costs: twofold export verify {folder} --against {model}",
            err=True,
        )


@command.command(
    epilog="Examples:  twofold export verify demo-onnx --against demo  |  "
    "twofold export verify scout-onnx --against ./scout --device cuda --json"
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--against", required=True, metavar="MODEL", help="The checkpoint that was exported.")
@click.option("--device", help="ONNX Runtime's execution provider: cpu, cuda, tensorrt, openvino ... [default: cpu]")
@click.option("--threads", type=int, help="Threads of ONNX Runtime. [default: its own choice]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the text.")
def verify(folder: Path, against: str, device: str | None, threads: int | None, as_json: bool) -> None:
    """Compare FOLDER with the model it was made of: files, operators, logits across chunk boundaries, answers.

    Weights are compared as they were rounded, so that logits must agree to 1e-4 of the largest; what rounding itself
    costs is told as KL divergence. Both are in memory in float32: for models of up to some billion parameters. The
    exit status is 1 when a check fails.
    """
    from twofold.verifying import verify_export

    found = verify_export(folder, against, device, threads)
    if as_json:
        click.echo(json.dumps({**asdict(found), "passed": found.passed}))
    else:
        show(found)
    if not found.passed:
        raise click.exceptions.Exit(1)


def show(found: Verdict) -> None:
    """Operators and opsets, then every check in a line."""
    contents = found.contents
    opsets = ", ".join(f"{domain} {number}" for domain, number in contents.opsets.items())
    sizes = f"{found.graph_bytes:,} bytes of graph, {found.weight_bytes:,} of weights"
    click.echo(f"{contents.nodes:,} nodes, {sizes}; {opsets}")
    click.echo(", ".join(f"{number} {name}" for name, number in contents.operators.items()))
    for check in found.checks:
        word = "passed" if check.passed else "FAILED"
        click.echo(f"{word}  {check.name}: {check.found:.3g}, at most {check.allowed:g}")
    click.echo(f"the longest text crosses {found.chunks} boundaries of attention chunks")
    same = f"same best token {found.agreement:.2%} of {found.positions}"
    click.echo(f"against the model in float32: KL divergence {found.kl:.5f}, {same}")
