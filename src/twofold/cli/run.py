"""twofold run: one prompt, one answer."""

from __future__ import annotations

import sys
from typing import Any

import click

from twofold.cli.options import LOADING, LOADING_NAMES, SAMPLING, with_options


@click.command(
    epilog="Examples:  twofold run demo 'Hello!'  |  twofold run meta-llama/Llama-3.2-1B-Instruct --dtype w4a8 "
    "'Explain RoPE'  |  twofold run ./model --raw 'def fibonacci(n):'"
)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the chat template.")
@click.option("--system", help="System prompt.")
@click.option("--quiet", is_flag=True, help="Print the answer only, no figures.")
@with_options(*LOADING, *SAMPLING)
def command(
    model: str, prompt: str | None, raw: bool, system: str | None, quiet: bool, stop: tuple[str, ...], **options: Any
) -> None:
    """Answer PROMPT (or what stands on stdin) with MODEL: a folder, a GGUF file, a Hugging Face id, or "demo"."""
    from twofold.api import Completion
    from twofold.cli.session import figures, load_with_progress, sampling_params, show

    if prompt is None:
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise click.UsageError("the prompt is empty; give one as an argument or on stdin")
    if raw and system:
        raise click.UsageError("--system needs the chat template; leave out --raw")
    loading = {name: options.pop(name) for name in LOADING_NAMES}
    params = sampling_params(stop=stop, **options)
    llm = load_with_progress(model, **loading)
    completion = Completion(prompt_tokens=0)
    if raw:
        show(llm.stream(prompt, params, completion))
    else:
        turns = [{"role": "system", "content": system}] if system else []
        show(llm.chat_stream([*turns, {"role": "user", "content": prompt}], params, completion=completion))
    if not quiet:
        click.echo(figures(llm, completion), err=True)
