"""Where chat templates run: jinja2's sandbox, held to an amount of time and memory.

A thread cannot be ended from outside, so a template is made to look at the clock itself: each turn of a loop, each
call and each operator does. What a single operation may make is bounded by OUTPUT_LIMIT.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

OUTPUT_LIMIT = 64 * 2**20
"""Characters a template may write, or put together in one step."""
RANGE_LIMIT = 1_000_000
"""Numbers that all calls of range() in one rendering may give."""
NUMBER_LIMIT = 1_000_000
"""Largest number a filter or a method of a text may be given: a width, an indent, a count."""
INDENT_LIMIT = 64
BITS_LIMIT = 10_000
SECONDS_LIMIT = 5.0
"""Computing time of one rendering. The longest real conversations take some hundredths of a second."""
BUDGET = "budget!"
"""Name of the budget among the variables: no template can spell it."""
WIDE = re.compile(r"%[^%a-zA-Z]*(?:\d{6}|\*)|\{[^{}]*(?:\d{6}|\{)")
"""A format with a width of a million or more, or one that is an argument."""


class TookTooLong(RuntimeError):
    """A rendering has used up its time."""


class Budget:
    """What one rendering may use. ends_s: on the clock of this thread's computing time."""

    def __init__(self, seconds: float, ends_s: float | None = None) -> None:
        self.seconds = seconds
        self.ends_s = time.thread_time() + seconds if ends_s is None else ends_s
        self.numbers_left = RANGE_LIMIT

    def check(self) -> None:
        """Raise TookTooLong when the time is over."""
        if time.thread_time() > self.ends_s:
            raise TookTooLong(f"it took longer than {self.seconds:g} seconds of computing")

    def again(self) -> Budget:
        """For another try within the same time."""
        return Budget(self.seconds, self.ends_s)

    def range(self, *bounds: int) -> range:
        """Like the built-in. Raises OverflowError when the rendering has used up its numbers."""
        numbers = range(*bounds)
        if len(numbers) > self.numbers_left:
            raise OverflowError(f"range() gave more than {RANGE_LIMIT} numbers")
        self.numbers_left -= len(numbers)
        return numbers


class Sandbox(ImmutableSandboxedEnvironment):
    """The jinja2 environment templates are written for, with operators that cannot fill the memory.

    The same settings, filters and functions as transformers, utils/chat_template_utils.py.
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.concat = join_within  # type: ignore[method-assign]
        self.filters["tojson"] = to_json
        self.filters = {name: bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {"counted!": counted, "joined!": lambda items: join_within(map(str, items))}
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = Watched().visit(super()._parse(source, name, filename))
        return tree

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call of a template."""
        budget_of(context).check()
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # jinja2 wraps str.format
        if isinstance(owner, str):
            args = (list(args[0]), *args[1:]) if function.__name__ == "join" and args else args
            check_size(function.__name__, owner, (*args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse results of more than OUTPUT_LIMIT characters, items or bits."""
        budget_of(context).check()
        size = 0
        if isinstance(left, int) and isinstance(right, int):
            refuse_large_number(operator, left, right)
        elif operator == "*" and hasattr(left, "__len__") and isinstance(right, int):
            size = len(left) * right
        elif operator == "*" and hasattr(right, "__len__") and isinstance(left, int):
            size = left * len(right)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            size = len(left) + len(right)
        elif operator == "%" and isinstance(left, str):
            check_size("format", left, right if isinstance(right, tuple) else (right,))
        refuse_beyond(operator, size)
        return super().call_binop(context, operator, left, right)


class Watched(NodeTransformer):
    """Puts `counted!` around what loops go through, and `joined!` in the place of the operator ~."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A loop."""
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "counted!", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        """a ~ b."""
        self.generic_visit(node)
        items = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(items, "joined!", [], [], None, None, lineno=node.lineno)


def budget_of(context: Context) -> Budget:
    """The budget of a rendering."""
    budget: Budget = context.parent[BUDGET]
    return budget


@pass_context
def counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    """The items, with a look at the clock for each."""
    budget = budget_of(context)
    for item in items:
        budget.check()
        yield item


def bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses numbers and sizes beyond the limits."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # the environment or context comes first

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        subject, rest = args[skipped : skipped + 1], args[skipped + 1 :]
        if name == "join" and subject and not isinstance(subject[0], str):
            subject = (list(subject[0]),)
        check_size(name, subject[0] if subject else None, (*rest, *kwargs.values()))
        return function(*args[:skipped], *subject, *rest, **kwargs)

    return checked


def check_size(name: str, subject: Any, args: tuple[Any, ...]) -> None:
    """Raise OverflowError for a filter or method of a text whose result could be larger than OUTPUT_LIMIT.

    subject: what it works on. Those that are not named here give no more than they are given.
    """
    largest = max((abs(item) for item in args if isinstance(item, int)), default=0)
    if largest > (INDENT_LIMIT if name == "tojson" else NUMBER_LIMIT):
        raise OverflowError(f"{name} was given the number {largest}, which is too large")
    if name == "sum" and not all(item is None or isinstance(item, int | float | str) for item in args):
        raise OverflowError("sum adds numbers only")
    if name in MULTIPLYING and subject is not None:
        refuse_beyond(name, MULTIPLYING[name](subject, args, largest))


def size_of_format(subject: Any, args: tuple[Any, ...], largest: int) -> int:
    """Of a text with places for values; no value or width may be large."""
    if WIDE.search(str(subject)):
        raise OverflowError("a format may not name a width of a million, or take it from an argument")
    return (str(subject).count("%") + str(subject).count("{")) * max(map(text_size, args), default=0)


def size_of_replaced(subject: Any, args: tuple[Any, ...], largest: int) -> int:
    """Of a text in which every args[0] becomes args[1]."""
    return str(subject).count(str(args[0])) * len(str(args[1])) if len(args) > 1 else 0


def size_of_joined(subject: Any, args: tuple[Any, ...], largest: int) -> int:
    """Of a list that is joined by a text, or a text that joins a list."""
    items, between = (args[0] if args else "", subject) if isinstance(subject, str) else (subject, args[0:1])
    return len(items) * text_size(between)


def size_of_lines(subject: Any, args: tuple[Any, ...], largest: int) -> int:
    """Of a text in which each line or tab may grow by what is given."""
    breaks = str(subject).count("\n") + str(subject).count("\t") + 1
    return breaks * max(largest, *map(text_size, args), 0)


def size_of_pieces(subject: Any, args: tuple[Any, ...], largest: int) -> int:
    """Of a text in which each character may become what is given."""
    return text_size(subject) * max(map(text_size, args), default=0)


MULTIPLYING: dict[str, Callable[[Any, tuple[Any, ...], int], int]] = {
    "format": size_of_format,
    "format_map": size_of_format,
    "replace": size_of_replaced,
    "join": size_of_joined,
    "indent": size_of_lines,
    "expandtabs": size_of_lines,
    "wordwrap": size_of_pieces,
    "translate": size_of_pieces,
}


def refuse_large_number(operator: str, left: int, right: int) -> None:
    """Raise OverflowError for a result of more than BITS_LIMIT: multiplying long numbers cannot be interrupted."""
    sizes = left.bit_length(), right.bit_length()
    bits = sizes[0] * right if operator == "**" else sum(sizes)
    if bits > BITS_LIMIT:
        raise OverflowError(f"{operator} would give a number of {bits} bits; {BITS_LIMIT} are allowed")


def text_size(value: Any) -> int:
    """Characters of a text, or of all texts in a list or an object, roughly."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(text_size, value.values()))
    return sum(map(text_size, value)) if isinstance(value, list | tuple) else 0


def refuse_beyond(name: str, size: int) -> None:
    """Raise OverflowError for more than OUTPUT_LIMIT."""
    if size > OUTPUT_LIMIT:
        raise OverflowError(f"{name} would give {size} characters; {OUTPUT_LIMIT} are allowed")


def join_within(texts: Iterable[str]) -> str:
    """The texts in one. Raises OverflowError beyond OUTPUT_LIMIT."""
    parts, size = [], 0
    for text in texts:
        size += len(text)
        refuse_beyond("joining", size)
        parts.append(text)
    return "".join(parts)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """The filter tojson without HTML escapes; options are separators and sort_keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def raise_exception(message: str) -> None:
    """How a template refuses a conversation."""
    raise jinja2.TemplateError(message)
