"""twofold chat: a conversation in the terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.options import LOADING, LOADING_NAMES, SAMPLING, with_options
from twofold.errors import RequestError

if TYPE_CHECKING:
    from twofold.api import LLM, SamplingParams

HELP = (
    "/reset forgets the conversation, /system TEXT sets the system prompt, "
    "/exit or Ctrl-D leaves, Ctrl-C stops an answer."
)


@click.command(epilog="Example:  twofold chat meta-llama/Llama-3.2-1B-Instruct --dtype w4a8")
@click.argument("model")
@click.option("--system", help="System prompt.")
@with_options(*LOADING, *SAMPLING)
def command(model: str, system: str | None, stop: tuple[str, ...], **options: Any) -> None:
    """Talk with MODEL: a folder, a GGUF file, a Hugging Face id, or "demo"."""
    from twofold.cli.session import load_with_progress, sampling_params

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history of input()

    loading = {name: options.pop(name) for name in LOADING_NAMES}
    params = sampling_params(stop=stop, **options)
    llm = load_with_progress(model, **loading)
    click.echo(HELP, err=True)
    Conversation(llm, params, system).loop()


class Conversation:
    """The turns so far; Ctrl-C stops an answer, which stays in the conversation as far as it came."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self.llm = llm
        self.params = params
        self.system = system
        self.turns: list[dict[str, str]] = []

    def loop(self) -> None:
        """Read lines until the user leaves."""
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D or /exit leaves)", err=True)
                continue
            if line in ("/exit", "/quit"):
                return
            if line:
                self.take(line)

    def take(self, line: str) -> None:
        """One line: a command or a message."""
        if line == "/reset":
            self.turns.clear()
            click.echo("(forgotten)", err=True)
        elif line.startswith("/system"):
            self.system = line.removeprefix("/system").strip() or None
            self.turns.clear()
            click.echo("(system prompt set, conversation forgotten)", err=True)
        elif line.startswith("/"):
            click.echo(HELP, err=True)
        else:
            self.answer(line)

    def answer(self, line: str) -> None:
        """Answer one message; a message that does not fit is taken back."""
        from twofold.api import Completion
        from twofold.cli.session import show

        self.turns.append({"role": "user", "content": line})
        system = [{"role": "system", "content": self.system}] if self.system else []
        completion = Completion(prompt_tokens=0)
        try:
            show(self.llm.chat_stream([*system, *self.turns], self.params, completion=completion))
        except KeyboardInterrupt:
            click.echo("\n(stopped)", err=True)
        except RequestError as error:
            self.turns.pop()
            click.echo(f"error: {error} /reset makes room.", err=True)
            return
        self.turns.append({"role": "assistant", "content": completion.text})
