"""twofold doctor: what this machine can do and what is missing."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

from twofold.errors import NativeUnavailable

TILES = {
    "not saved": "the CPU has them, but the system does not save them for its processes (Linux 5.16 or newer does)",
    "refused": "the CPU has them, but the system refused this process their use (arch_prctl)",
}
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@click.command(epilog="Example:  twofold doctor")
def command() -> None:
    """Show CPU features, the instruction set chosen, measured limits, huge pages, and what is missing."""
    click.echo(f"twofold {installed('twofold')}, Python {platform.python_version()}, NumPy {installed('numpy')}")
    try:
        show_cpu()
    except NativeUnavailable as error:
        click.echo(f"native kernels: missing. {error}")
    show_memory()
    show_extras()


def show_cpu() -> None:
    """Features, instruction set, threads and the two limits, measured now."""
    from twofold.backends.cpu import machine

    facts = machine.cpu()
    click.echo(f"CPU: {facts.name}")
    click.echo(f"features: {' '.join(facts.features) or 'none beyond the baseline'}")
    click.echo(f"instruction sets: {', '.join(facts.isas)} (chosen: {facts.chosen_isa}), {facts.threads} threads")
    if facts.tiles in TILES:
        click.echo(f"AMX tiles: {TILES[facts.tiles]}")
    click.echo(f"memory read limit: {machine.measure_read(2**30) / 1e9:.1f} GB/s")
    click.echo(f"int8 limit: {machine.measure_int8() / 1e12:.2f} TOP/s, with four-bit weights "
               f"{machine.measure_int4() / 1e12:.2f} TOP/s (one multiply-add is two)")  # fmt: skip


def show_memory() -> None:
    """Memory at hand and huge pages."""
    from twofold.weights.memory import available_memory

    click.echo(f"memory available: {available_memory() / 2**30:.1f} GiB")
    if not HUGE_PAGES.exists():
        click.echo("huge pages: not offered by this system")
        return
    setting = HUGE_PAGES.read_text().split("[")[1].split("]")[0]
    hint = "" if setting in ("madvise", "always") else f"; for faster weights: echo madvise | sudo tee {HUGE_PAGES}"
    click.echo(f"huge pages: {setting}{hint}")


def show_extras() -> None:
    """Optional packages and how to get them; the devices that torch sees."""
    if not find_spec("torch"):
        click.echo("torch: not installed; the gpu backend needs it (pip install 'twofold[gpu]')")
        return
    from twofold.backends.gpu import devices

    click.echo(f"torch: installed ({installed('torch')}), triton: {installed('triton')}")
    for name in devices.seen()[1:]:
        free = devices.free_memory(name)
        memory = "" if free is None else f", {free / 2**30:.1f} GiB free"
        click.echo(f"device {name}: {devices.describe(name)}{memory}")
    if devices.first_device() is None:
        click.echo("devices: torch sees none beside the CPU")


def installed(package: str) -> str:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
