"""Entry point of `twofold`: finds the verb, imports only that, and turns our errors into one line."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from twofold.errors import TwofoldError

VERBS = (
    "run",
    "chat",
    "info",
    "plan",
    "pack",
    "quantize",
    "export",
    "serve",
    "bench",
    "prove",
    "eval",
    "migrate",
    "doctor",
    "demo",
)


class Verbs(click.Group):
    """Imports a verb's file when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of their introduction."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one verb."""
        if cmd_name not in VERBS:
            return None
        command = import_module(f"twofold.cli.{cmd_name}").command
        assert isinstance(command, click.Command), cmd_name
        return command


@click.group(
    cls=Verbs,
    epilog="Examples:  twofold demo  |  twofold run MODEL 'Why is the sky blue?'  |  twofold info MODEL",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),  # vLLM takes both
    },
)
@click.version_option(package_name="twofold")
def group() -> None:
    """Inference for Llama 4 and the Llama 2/3 systems people migrate from."""


def main() -> None:
    """Run the command line."""
    try:
        group(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except TwofoldError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
