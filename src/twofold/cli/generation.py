"""The options of `twofold serve` about prompts and about what requests leave open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.errors import SettingsError

if TYPE_CHECKING:
    from twofold.engine.request import SamplingParams
    from twofold.loading import Loaded
    from twofold.text.chat import ChatTemplate

NAME = "generation_config.json"
KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "do_sample")

GENERATION = (
    click.option(
        "--chat-template", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with the chat template (Jinja) to use. [default: the model's own]",
    ),
    click.option(
        "--trust-request-chat-template", is_flag=True,
        help="Let requests bring a chat template; it may write special tokens wherever it likes.",
    ),
    click.option(
        "--generation-config", default="auto", show_default=True, metavar="auto|vllm|PATH",
        help="Where defaults of sampling come from: the model's generation_config.json; none, as vllm; or a folder.",
    ),
    click.option(
        "--override-generation-config", metavar="JSON", help='Defaults that win over those, like {"temperature": 0.5}.'
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What the options say; None leaves it to the model. overrides: keys of a generation_config.json."""

    template: ChatTemplate | None = None
    config: Mapping[str, Any] | None = None
    overrides: Mapping[str, Any]

    def template_of(self, loaded: Loaded) -> ChatTemplate:
        """The chat template to use."""
        return self.template or loaded.template

    def defaults_of(self, loaded: Loaded) -> SamplingParams:
        """What requests leave open."""
        from twofold.loading import read_defaults

        own = loaded.model.defaults if self.config is None else read_defaults(self.config)
        if self.overrides.get("do_sample") is True and own.temperature == 0:
            own = replace(own, temperature=None)
        return read_defaults(self.overrides).over(own)


def read_generation(options: Mapping[str, Any]) -> Generation:
    """What the options say. Raises SettingsError, CheckpointError or TemplateError; nothing is loaded yet."""
    from twofold.loading import read_defaults
    from twofold.weights.checkpoint import read_json

    source, config = options["generation_config"], None
    if source == "vllm":
        config = {}
    elif source != "auto":
        path = Path(source)
        folder, name = (path, NAME) if path.is_dir() else (path.parent, path.name)
        config = read_json(folder, name)
    overrides = read_overrides(options["override_generation_config"])
    for found in (config or {}, overrides):
        read_defaults(found)
    return Generation(template=read_template(options["chat_template"]), config=config, overrides=overrides)


def read_overrides(text: str | None) -> dict[str, Any]:
    """The keys and values of the option. Raises SettingsError."""
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise SettingsError(f"--override-generation-config is no JSON: {error}") from error
    unknown = set(value) - set(KEYS) if isinstance(value, dict) else {text}
    if unknown:
        raise SettingsError(
            f"--override-generation-config has {', '.join(map(repr, sorted(map(str, unknown))))}; "
            f"an object with any of {', '.join(KEYS)} was expected"
        )
    found: dict[str, Any] = value
    return found


def read_template(path: Path | None) -> ChatTemplate | None:
    """The template in a file, found to compile. Raises TemplateError."""
    from twofold.errors import TemplateError
    from twofold.text.chat import ChatTemplate

    if path is None:
        return None
    try:
        template = ChatTemplate({"default": path.read_text("utf-8")})
    except (OSError, ValueError) as error:
        raise TemplateError(f"the chat template {path} cannot be read: {error}. UTF-8 text was expected.") from error
    template.check()
    return template
