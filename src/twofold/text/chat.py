"""Conversations to token ids, through the model's own chat template or a built-in one.

What users write never becomes a special token, see guard.py. Marks that are ordinary text to the tokenizer, like
Llama 2's "[INST]" and "<<SYS>>", cannot be protected that way: users of Llama 2 can imitate them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from twofold.errors import TemplateError, TokenizerError
from twofold.text.conversation import Message, plain_messages, plain_tools
from twofold.text.files import read_object
from twofold.text.guard import Guard, free_character, mapped, strings_in
from twofold.text.sandbox import BUDGET, OUTPUT_LIMIT, SECONDS_LIMIT, Budget, Sandbox, TookTooLong
from twofold.text.tokenizer import Tokenizer

FAMILIES = ("llama4", "llama3", "llama2")
RESERVED = ("self", "messages", "tools", "add_generation_prompt", "range")
BLAME_LIMIT = 200
"""Messages that are tried one by one to find which of them a template refuses."""
FAILURES = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What expressions of a template raise."""


class ChatTemplate:
    """A model's chat template; with the name tool_use a second one may be there for conversations with tools.

    seconds: computing time one rendering may take.
    """

    def __init__(self, sources: Mapping[str, str], seconds: float = SECONDS_LIMIT) -> None:
        self.sources = dict(sources)
        self.seconds = seconds

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

    def check(self) -> None:
        """Raise TemplateError when it does not compile."""
        assert self._compiled

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
        template, budget = self._compiled[self.name_for(tools)], Budget(self.seconds)
        given = {"tools": tools, "documents": None, **variables, BUDGET: budget}
        try:
            return _write(template, messages, given)
        except TookTooLong as error:
            raise TemplateError(f"the chat template cannot render the conversation: {error}") from error
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
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation, the begin token first and once.

    continue_final_message: end inside the last message, which must be the assistant's and text, so that the answer goes
    on with it; no generation prompt then. `variables` go to the template (date_string, documents ...). Raises
    TemplateError naming the message at fault.
    """
    plain, listed = plain_messages(messages), plain_tools(tools)
    extra = dict(variables or {})
    taken = sorted({*RESERVED, *tokenizer.names} & extra.keys())
    if taken:
        raise TemplateError(f"the variable {taken[0]!r} of the chat template is given another way. Leave it out.")
    source = template.sources[template.name_for(listed)]
    guard = Guard(tokenizer.literals, source, [text for value in (plain, listed, extra) for text in strings_in(value)])
    try:
        marked = [mapped(value, guard.mark) for value in (plain, listed, extra)]
    except (TypeError, RecursionError) as error:
        raise TemplateError(f"a variable for the chat template holds {error}. Send JSON values only.") from error
    fixed = {**tokenizer.names, "add_generation_prompt": add_generation_prompt and not continue_final_message}
    given = {"bos_token": "", "eos_token": "", **marked[2], **fixed}
    if continue_final_message:
        seen = (source, guard.marker, *(text for value in (plain, listed, extra) for text in strings_in(value)))
        text = render_open(template, marked[0], marked[1], given, free_character([*seen]))
    else:
        text = template.render(marked[0], marked[1], **given)
    parts = [part if isinstance(part, int) else guard.clean(part) for part in tokenizer.split(text)]
    ids = tokenizer.encode_parts(parts)
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    while begin and ids[:1] == begin:
        del ids[0]
    return begin + ids


def render_open(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
    end: str,
) -> str:
    """The text of a conversation up to the end of its last message; `end` is a character that occurs nowhere.

    Raises TemplateError when that message is not text of the assistant, or the template does not show it as it is.
    """
    index, last = len(messages) - 1, messages[-1]
    content = last["content"]
    if last["role"] != "assistant" or not isinstance(content, str) or not content or last.get("tool_calls"):
        raise TemplateError(
            f"message {index} cannot be continued: the last message must be the assistant's, and text only. "
            "Leave continue_final_message out."
        )
    text = template.render([*messages[:-1], {**last, "content": content + end}], tools, **variables)
    text = text[: text.rfind(end)] if end in text else ""
    if not text.endswith((content, content.lstrip())):
        raise TemplateError(
            f"message {index} cannot be continued: the chat template does not show it as it is. "
            "Leave continue_final_message out."
        )
    return text.replace(end, "")


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


def _write(template: jinja2.Template, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
    parts, size, budget = [], 0, variables[BUDGET].again()
    for part in template.generate({**variables, "messages": messages, "range": budget.range, BUDGET: budget}):
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
