"""Conversations to token ids, through the model's own chat template or a built-in one.

What users write never becomes a special token, see guard.py. Marks that are ordinary text to the tokenizer, like
Llama 2's "[INST]" and "<<SYS>>", cannot be protected that way: users of Llama 2 can imitate them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from twofold.errors import TemplateError, TokenizerError
from twofold.text.conversation import Message, plain_messages, plain_tools
from twofold.text.files import read_object
from twofold.text.guard import Guard, mapped, strings_in
from twofold.text.tokenizer import Tokenizer

FAMILIES = ("llama4", "llama3", "llama2")
OUTPUT_LIMIT = 64 * 2**20
"""Characters a template may write, or put together in one step."""
RANGE_LIMIT = 1_000_000
"""Numbers that all calls of range() in one rendering may give."""
BLAME_LIMIT = 200
"""Messages that are tried one by one to find which of them a template refuses."""
FAILURES = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What expressions of a template raise."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The jinja2 environment templates are written for, with operators that cannot fill the memory.

    The same settings, filters and functions as transformers, utils/chat_template_utils.py.
    """

    intercepted_binops = frozenset({"*", "**", "+"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.filters["tojson"] = to_json
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse results of more than OUTPUT_LIMIT characters, items or bits."""
        size = 0
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            size = left.bit_length() * right
        elif operator == "*" and hasattr(left, "__len__") and isinstance(right, int):
            size = len(left) * right
        elif operator == "*" and hasattr(right, "__len__") and isinstance(left, int):
            size = left * len(right)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            size = len(left) + len(right)
        if size > OUTPUT_LIMIT:
            raise OverflowError(f"{operator} would give {size} characters; {OUTPUT_LIMIT} are allowed")
        return super().call_binop(context, operator, left, right)


class RangeBudget:
    """range() for one rendering."""

    def __init__(self) -> None:
        self.left = RANGE_LIMIT

    def range(self, *bounds: int) -> range:
        """Like the built-in. Raises OverflowError when the rendering has used up its numbers."""
        numbers = range(*bounds)
        if len(numbers) > self.left:
            raise OverflowError(f"range() gave more than {RANGE_LIMIT} numbers")
        self.left -= len(numbers)
        return numbers


class ChatTemplate:
    """A model's chat template; with the name tool_use a second one may be there for conversations with tools."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = dict(sources)

    @classmethod
    def load(cls, folder: Path, family: str) -> ChatTemplate:
        """The template in the model's folder, else the built-in one of the family (llama4, llama3, llama2)."""
        return cls(read_templates(folder)) if read_templates(folder) else cls.built_in(family)

    @classmethod
    def of(cls, config: Mapping[str, Any], family: str) -> ChatTemplate:
        """The template in what tokenizer_config.json says, else the built-in one of the family."""
        found = named_templates("tokenizer_config.json", config.get("chat_template"))
        return cls(found) if found else cls.built_in(family)

    @classmethod
    def built_in(cls, family: str) -> ChatTemplate:
        """The template that comes with twofold. Raises TemplateError for a family that has none."""
        if family not in FAMILIES:
            raise TemplateError(
                f"the model has no chat template and the family {family!r} no built-in one "
                f"(known: {', '.join(FAMILIES)}). Put a chat_template.jinja into the model's folder."
            )
        file = resources.files("twofold.text") / "templates" / f"{family}.jinja"
        return cls({"default": file.read_text("utf-8")})

    def name_for(self, tools: object) -> str:
        """Which of the templates serves a conversation."""
        if tools and "tool_use" in self.sources:
            return "tool_use"
        return "default" if "default" in self.sources else next(iter(self.sources))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation; variables are add_generation_prompt, bos_token and whatever the template knows.

        The messages must be in the form of `plain_messages`. Raises TemplateError, naming the first message with which
        the template fails, when one can be found.
        """
        template = self._compiled[self.name_for(tools)]
        given = {"tools": tools, "documents": None, **variables}
        try:
            return _write(template, messages, given)
        except FAILURES as error:
            where = _blame(template, messages, given, str(error))
            raise TemplateError(f"the chat template refuses {where}: {error or type(error).__name__}") from error

    @cached_property
    def _compiled(self) -> dict[str, jinja2.Template]:
        try:
            return {name: Sandbox().from_string(source) for name, source in self.sources.items()}
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(
                f"the chat template does not compile: {error}. Put another chat_template.jinja into the model's folder."
            ) from error


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation, the begin token first and once.

    `variables` go to the template (date_string, documents ...). Raises TemplateError naming the message at fault.
    """
    plain, listed = plain_messages(messages), plain_tools(tools)
    extra = dict(variables or {})
    source = template.sources[template.name_for(listed)]
    guard = Guard(tokenizer.literals, source, [text for value in (plain, listed, extra) for text in strings_in(value)])
    try:
        marked = [mapped(value, guard.mark) for value in (plain, listed, extra)]
    except (TypeError, RecursionError) as error:
        raise TemplateError(f"a variable for the chat template holds {error}. Send JSON values only.") from error
    fixed = {**tokenizer.names, "add_generation_prompt": add_generation_prompt}
    text = template.render(marked[0], marked[1], **{"bos_token": "", "eos_token": "", **marked[2], **fixed})
    parts = [part if isinstance(part, int) else guard.clean(part) for part in tokenizer.split(text)]
    ids = tokenizer.encode_parts(parts)
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    while begin and ids[:1] == begin:
        del ids[0]
    return begin + ids


def read_templates(folder: Path) -> dict[str, str]:
    """Templates in a model's folder by name: chat_template.jinja, chat_template.json or tokenizer_config.json.

    Raises TemplateError when the file that counts holds none.
    """
    if (folder / "chat_template.jinja").exists():
        try:
            return {"default": (folder / "chat_template.jinja").read_text("utf-8")}
        except (OSError, ValueError) as error:
            raise TemplateError(f"chat_template.jinja cannot be read: {error}. Download the file again.") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            value = read_object(folder / name).get("chat_template")
        except TokenizerError as error:
            raise TemplateError(str(error)) from error
        if value:
            return named_templates(name, value)
    return {}


def named_templates(name: str, value: Any) -> dict[str, str]:
    """The templates in a chat_template of the file `name`, which is a text or a list of named ones; {} for none."""
    entries = [{"name": "default", "template": value}] if isinstance(value, str) and value else value or []
    try:
        found = {entry["name"]: entry["template"] for entry in entries}
    except (TypeError, KeyError) as error:
        raise TemplateError(f"{name}: chat_template is neither text nor a list of named texts.") from error
    if not all(isinstance(text, str) for text in strings_or_none(found)):
        raise TemplateError(f"{name}: a chat_template is no text. Download the file again.")
    return found


def strings_or_none(found: Mapping[Any, Any]) -> list[Any]:
    """Names and texts of templates in one list."""
    return [*found, *found.values()]


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """The filter tojson without HTML escapes; options are separators and sort_keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def raise_exception(message: str) -> None:
    """How a template refuses a conversation."""
    raise jinja2.TemplateError(message)


def _write(template: jinja2.Template, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
    parts, size = [], 0
    for part in template.generate({**variables, "messages": messages, "range": RangeBudget().range}):
        size += len(part)
        if size > OUTPUT_LIMIT:
            raise OverflowError(f"it wrote more than {OUTPUT_LIMIT} characters")
        parts.append(part)
    return "".join(parts)


def _blame(template: jinja2.Template, messages: Sequence[Message], variables: Mapping[str, Any], failure: str) -> str:
    """Which message makes a template fail: the last one of the shortest beginning that fails in the same way."""
    for index in range(min(len(messages), BLAME_LIMIT)):
        try:
            _write(template, messages[: index + 1], variables)
        except FAILURES as error:
            if str(error) == failure:
                return f"message {index}"
    return "the conversation"
