"""The command line is frozen: a change to this list is the discussion of a change to the command line."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import click

from twofold.cli.main import VERBS, group

LOADING = [
    *("--dtype", "--backend", "--device", "--kv-cache-dtype", "--context", "--threads"),
    *("--ranks", "--expert-split", "--expert-cache", "--draft"),
]
SAMPLING = [
    *("--max-tokens", "--temperature", "--top-p", "--top-k", "--min-p", "--repetition-penalty", "--seed", "--stop"),
]
WATCHING = ["--price-per-hour", "--currency", "--price-class", "--prices", "--log-format", "--log-level"]
SURFACE = {
    "run": ["model", "prompt", "--raw", "--system", "--quiet", *LOADING, *SAMPLING],
    "chat": ["model", "--system", *LOADING, *SAMPLING],
    "info": ["model"],
    "plan": [
        *("model", "--on", "--scheme", "--users", "--context", "--kv-cache-dtype", "--tokens-per-second"),
        *("--budget-per-month", "--budget-per-million", "--price-per-hour", "--prices", "--catalogue", "--json"),
    ],
    "pack": ["model", "-o", "--dtype"],
    "serve": [
        *("model", "--host", "--port", "--root-path", "--cors-origin"),
        *("--ssl-certfile", "--ssl-keyfile", "--ssl-password-file"),
        *("--api-key", "--api-key-file", "--key-max-requests", "--key-requests-per-minute", "--key-tokens-per-minute"),
        *("--served-model-name", "--max-num-seqs", "--max-num-batched-tokens"),
        *("--max-step-ms", "--max-waiting", "--max-connections", "--header-timeout", "--idle-timeout", "--grace"),
        *("--session-dir", "--session-space"),
        *("--chat-template", "--trust-request-chat-template", "--generation-config", "--override-generation-config"),
        *(*WATCHING, *LOADING),
    ],
    "quantize": ["model", "-o", "--scheme", "--budget", "--method", "--transform", "--calibration"],
    "export": [],
    "export write": ["model", "-o", "--target", "--dtype", "--experts"],
    "export verify": ["folder", "--against", "--device", "--threads", "--json"],
    "bench": ["model", *LOADING, "--repeats", "--preset", "--json"],
    "prove": [
        *("model", "-o", "--replay", "--dtype", "--baseline", "--baseline-dtype", "--name", "--baseline-name"),
        *("--key", "--baseline-key", "--threads", "--preset", "--prompts", "--requests", "--streams", "--rounds"),
        *("--seed", "--latency-limit", "--metric", "--target", "--max-kl", "--min-agreement"),
        *("--price-per-hour", "--currency", "--prices", "--price-class", "--monthly-tokens"),
    ],
    "eval": [
        *("model", "--against", "--against-dtype", "--text", "--layers", "--tasks", "--limit", "--gate-kv"),
        *(*LOADING, "--json"),
    ],
    "doctor": [],
    "demo": ["--dtype", "--evaluate", "--questions", "--json", "--threads"],
    "migrate": [],
    "migrate compare": [
        *("--old", "--new", "--old-model", "--new-model", "--old-key", "--new-key", "--old-dtype", "--new-dtype"),
        *("--context", "--threads", "--prompts", "--limit", "--sampling", "--max-tokens", "--timeout", "-o", "--json"),
        *("--prices", "--old-price", "--new-price", "--least-prompts", "--most-failures", "--least-agreement"),
        *("--most-loss", "--most-slowdown", "--most-cost"),
    ],
    "migrate scan": ["path", "--write", "--json", "--to"],
}


def commands() -> Iterator[tuple[str, click.Command]]:
    for verb in VERBS:
        command = import_module(f"twofold.cli.{verb}").command
        yield verb, command
        if isinstance(command, click.Group):
            yield from ((f"{verb} {name}", inner) for name, inner in command.commands.items())


def test_verbs_and_options_are_these() -> None:
    found = {}
    for verb, command in commands():
        found[verb] = [item.opts[0] if isinstance(item, click.Option) else item.name for item in command.params]
    assert found == SURFACE


def test_every_verb_explains_itself_with_an_example() -> None:
    for verb, command in commands():
        assert "Example" in (command.epilog or ""), verb
        assert command.help, verb
        assert all(item.help for item in command.params if isinstance(item, click.Option)), verb


def test_underscores_in_option_names_are_taken_too() -> None:
    command = import_module("twofold.cli.serve").command
    with group.make_context("twofold", ["serve"]) as parent:
        context = command.make_context("serve", ["demo", "--max_num_seqs=3", "--dtype", "w4a8"], parent=parent)
    assert (context.params["max_num_seqs"], context.params["dtype"]) == (3, "w4a8")
