"""twofold info: what a model is and what it costs, from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

if TYPE_CHECKING:
    from twofold.loading import Model
    from twofold.ops.types import KvDtype

CONTEXTS = (2048, 8192, 32768, 131072, 1048576)


@click.command(
    epilog="Examples:  twofold info demo  |  twofold info ./Llama-4-Scout-17B-16E-Instruct  |  twofold info model.gguf"
)
@click.argument("model")
def command(model: str) -> None:
    """Show what MODEL is, bytes per part, what a token costs, and bytes of cache per context length."""
    from twofold.loading import open_model

    opened = open_model(model)
    describe(opened)
    show_parts(opened)
    show_cache(opened)
    show_kv_choice(opened)


def describe(model: Model) -> None:
    """Architecture, sizes, what a GGUF file holds, and warnings."""
    from twofold.weights.gguf_checkpoint import GgufCheckpoint

    architecture = model.architecture
    counted = model.footprint("bf16")
    click.echo(f"{architecture.name}: {architecture.layers} layers, hidden size {architecture.hidden}, "
               f"vocabulary {architecture.vocabulary:,}, context {architecture.context:,}")  # fmt: skip
    if architecture.expert_count:
        click.echo(f"{architecture.expert_count} experts, {architecture.active_experts} active per token")
    chunks = architecture.cache_shape.chunks
    if architecture.cache_shape.chunk:
        local = sum(chunk is not None for chunk in chunks)
        click.echo(f"{local} local layers (chunks of {architecture.cache_shape.chunk:,}), {len(chunks) - local} global")
    click.echo(f"{counted.total_parameters:,} parameters, {counted.read_parameters_per_token:,} of them read per token")
    if isinstance(model.store, GgufCheckpoint):
        kinds = ", ".join(f"{count} {kind}" for kind, count in model.store.parts.kinds.items())
        click.echo(f"GGUF file of {readable(model.store.size_bytes)}, tensors by type: {kinds}")
    for warning in architecture.warnings:
        click.echo(f"warning: {warning}")


def show_kv_choice(model: Model) -> None:
    """How keys and values are kept when nothing is said about it, and why."""
    from twofold.config import Settings, choose_dtype
    from twofold.loading import choose_kv_cache

    settings = Settings()
    dtype = choose_dtype(settings, model.packed_dtype, model.quantised_dtype)
    chosen, reason, _ = choose_kv_cache(model.folder, settings, dtype)
    click.echo(f"Kept in {chosen} with {dtype} weights: {reason}")


def show_parts(model: Model) -> None:
    """Bytes of each part and bytes read per token: as the model is quantised, and for every scheme it may run as."""
    from rich.console import Console
    from rich.table import Table

    from twofold.config import DTYPES
    from twofold.ops.types import Role

    table = Table(title="Bytes of weights", title_justify="left")
    table.add_column("part")
    own = model.own_dtype
    names: tuple[str, ...] = DTYPES if own is None or own in DTYPES else (own, *DTYPES)
    if model.packed_dtype is not None:
        names = (model.packed_dtype,)  # what is packed runs as nothing else
    for name in names:
        table.add_column(name, justify="right")
    counted = [model.footprint(name) for name in names]
    for role in get_args(Role):
        if role in counted[0].bytes:
            table.add_row(role, *(readable(item.bytes[role]) for item in counted))
    table.add_section()
    table.add_row("all", *(readable(item.total_bytes) for item in counted))
    table.add_row("read per token", *(readable(item.read_bytes_per_token) for item in counted))
    Console().print(table)


def show_cache(model: Model) -> None:
    """Bytes of the key and value cache of one sequence."""
    from twofold.ops.cost import cache_bytes

    kinds: tuple[KvDtype, ...] = ("bf16", "int8")

    architecture = model.architecture
    click.echo("Key and value cache of one sequence, bf16 and int8:")
    for tokens in sorted({*(size for size in CONTEXTS if size < architecture.context), architecture.context}):
        sizes = (readable(cache_bytes(architecture.cache_shape, tokens, kind)) for kind in kinds)
        click.echo(f"  {tokens:>10,} tokens  " + "  ".join(f"{size:>10}" for size in sizes))


def readable(count: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
