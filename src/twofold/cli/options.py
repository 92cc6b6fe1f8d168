"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from twofold.config import BACKENDS, DTYPES, EXPERT_SPLITS, KV_DTYPES

Function = TypeVar("Function", bound=Callable[..., Any])


def read_size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Bytes of a size as people write it: 8GiB, 500MB, or a number of bytes."""
    from twofold.errors import SettingsError
    from twofold.quant.budget import parse_budget

    if value is None or value.isdecimal():
        return None if value is None else int(value)
    try:
        found = parse_budget(value)
    except SettingsError:
        found = None
    if found is None or found.kind != "bytes":
        raise click.BadParameter(f"{value!r} is no size; 8GiB or 500MB would be", context, option)
    return int(found.amount)


LOADING = (
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        help="Bits of the weights; w8a8 and w4a8 quantise while loading. [default: bf16, or as packed]",
    ),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        help="cpu: native kernels; gpu: torch and Triton; onnx: an exported folder in ONNX Runtime; reference: NumPy, "
        "slow. [default: onnx for an exported folder, gpu where there is one, else cpu]",
    ),
    click.option(
        "--device",
        help="Where the gpu backend runs: cuda, cuda:1, xpu, mps ..., cpu [default: the first]; "
        "or the onnx backend's execution provider: cpu, cuda, tensorrt, openvino ... [default: cpu]",
    ),
    click.option(
        "--kv-cache-dtype",
        type=click.Choice(KV_DTYPES),
        help="How keys and values are kept; int8 halves memory and reading at long contexts. "
        "[default: int8 where the folder says it was tested, else bf16]",
    ),
    click.option("--context", type=int, help="Longest sequence in tokens. [default: the model's, at most 8192]"),
    click.option("--threads", type=int, help="Threads of the native kernels. [default: one per physical core]"),
    click.option(
        "--ranks",
        "--tensor-parallel-size",
        "ranks",
        type=int,
        help="Processes that share the model, each on a device of its own (gpu backend). [default: 1]",
    ),
    click.option(
        "--expert-split",
        type=click.Choice(EXPERT_SPLITS),
        help="How ranks share experts: each a part of every expert, or each some experts. [default: width]",
    ),
    click.option(
        "--expert-cache",
        metavar="SIZE",
        callback=read_size,
        help="Device memory for routed experts (gpu backend); they stay in the host's memory and take turns. "
        "[default: all where they fit, else what is left]",
    ),
    click.option("--draft", metavar="MODEL", help="A small model with the same vocabulary that guesses ahead."),
)

LOADING_NAMES = (
    "dtype",
    "backend",
    "device",
    "kv_cache_dtype",
    "context",
    "threads",
    "ranks",
    "expert_split",
    "expert_cache",
    "draft",
)

SAMPLING = (
    click.option("--max-tokens", type=int, help="Longest answer. [default: until it ends or the context is full]"),
    click.option("--temperature", type=float, help="0 is greedy. [default: the model's]"),
    click.option("--top-p", type=float, help="Share of probability to keep. [default: the model's]"),
    click.option("--top-k", type=int, help="Number of tokens to keep, 0 for all. [default: the model's]"),
    click.option("--min-p", type=float, help="Least probability relative to the best. [default: the model's]"),
    click.option("--repetition-penalty", type=float, help="Above 1 discourages repeats. [default: the model's]"),
    click.option("--seed", type=int, help="Makes sampling repeatable."),
    click.option("--stop", multiple=True, help="Text that ends the answer; may be given several times."),
)


def with_options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Add options to a command, in their order."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
