"""Checks a value against a JSON schema: the part of the standard that tools use, and a list of what is left out.

Source: JSON Schema 2020-12, validation. Keywords that only describe are passed over; others are named as not checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

MOST_DEPTH = 64
MOST_STEPS = 50_000
TOGETHER = ("properties", "additionalProperties", "required", "items", "prefixItems")
MOST_TEXT = 10_000
"""Characters of a text that a pattern is tried on."""
DESCRIBING = {
    *(
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
        "$comment",
    ),
    *("$defs", "definitions", "strict", "contentMediaType", "contentEncoding"),
}
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value == int(value)))
    ),
}


class Checked:
    """The result: errors, each with its place in the value; unchecked, keywords that were not looked at."""

    def __init__(self, root: Any, steps: list[int] | None = None) -> None:
        self.root = root
        self.steps = steps if steps is not None else [0]
        self.errors: list[str] = []
        self.unchecked: set[str] = set()

    def may_go_on(self, depth: int) -> bool:
        """Whether there is room for one more schema: references may go round, possibilities multiply."""
        self.steps[0] += 1
        if depth <= MOST_DEPTH and self.steps[0] <= MOST_STEPS:
            return True
        self.unchecked.add(f"what lies deeper than {MOST_DEPTH}, or beyond {MOST_STEPS} steps")
        return False


def check(schema: Any, value: Any) -> Checked:
    """Check a value. A schema that is no schema is an error of its own."""
    found = Checked(schema)
    visit(found, schema, value, "$", 0)
    return found


def visit(found: Checked, schema: Any, value: Any, place: str, depth: int) -> None:
    """One schema and one value."""
    if schema is True or not found.may_go_on(depth):
        return
    if not isinstance(schema, dict):
        problem = "nothing is allowed here" if schema is False else f"{schema!r:.60} is no schema"
        found.errors.append(f"{place}: {problem}")
        return
    for word, rule in schema.items():
        try:
            visit_word(found, word, rule, value, place, depth)
        except (TypeError, ValueError, AttributeError, LookupError, re.error, ArithmeticError, RecursionError):
            found.unchecked.add(f"{word} (its value is not understood)")
    if isinstance(value, dict):
        visit_object(found, schema, value, place, depth)
    if isinstance(value, list):
        visit_list(found, schema, value, place, depth)


def visit_word(found: Checked, word: str, rule: Any, value: Any, place: str, depth: int) -> None:
    """One keyword. Raises what its rule makes Python raise when it is not as the standard says."""
    if word in COMBINING:
        COMBINING[word](found, rule, value, place, depth)
    elif word in PLAIN:
        problem = PLAIN[word](rule, value)
        if problem:
            found.errors.append(f"{place}: {problem}")
    elif word not in TOGETHER and word not in DESCRIBING:
        found.unchecked.add(word)


def visit_object(found: Checked, schema: Mapping[str, Any], value: Mapping[str, Any], place: str, depth: int) -> None:
    """properties, required and additionalProperties."""
    known = schema.get("properties", {})
    known = known if isinstance(known, dict) else {}
    required = schema.get("required", ())
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in value:
            found.errors.append(f"{place}: {name!r} is missing")
    for name, item in value.items():
        if name in known:
            visit(found, known[name], item, f"{place}.{name}", depth + 1)
        elif schema.get("additionalProperties") is False and "patternProperties" not in schema:
            found.errors.append(f"{place}: {name!r} is not known")
        elif isinstance(schema.get("additionalProperties"), dict) and "patternProperties" not in schema:
            visit(found, schema["additionalProperties"], item, f"{place}.{name}", depth + 1)


def visit_list(found: Checked, schema: Mapping[str, Any], value: list[Any], place: str, depth: int) -> None:
    """prefixItems and items."""
    first = schema.get("prefixItems", [])
    first = first if isinstance(first, list) else []
    for index, item in enumerate(value):
        if index < len(first):
            visit(found, first[index], item, f"{place}[{index}]", depth + 1)
        elif "items" in schema:
            visit(found, schema["items"], item, f"{place}[{index}]", depth + 1)


def fits(found: Checked, schema: Any, value: Any, depth: int) -> bool:
    """Whether a value fits a part of the schema; what was not checked is noted."""
    inner = Checked(found.root, found.steps)
    visit(inner, schema, value, "$", depth + 1)
    found.unchecked |= inner.unchecked
    return not inner.errors


def all_of(found: Checked, rule: Any, value: Any, place: str, depth: int) -> None:
    """Every one of them."""
    for part in rule:
        visit(found, part, value, place, depth + 1)


def any_of(found: Checked, rule: Any, value: Any, place: str, depth: int) -> None:
    """One of them at least."""
    if sum(fits(found, part, value, depth) for part in rule) == 0:
        found.errors.append(f"{place}: fits none of {len(rule)} possibilities")


def one_of(found: Checked, rule: Any, value: Any, place: str, depth: int) -> None:
    """Exactly one of them."""
    count = sum(fits(found, part, value, depth) for part in rule)
    if count != 1:
        found.errors.append(f"{place}: fits {count} of {len(rule)} possibilities, not one")


def not_this(found: Checked, rule: Any, value: Any, place: str, depth: int) -> None:
    """Anything but this."""
    if fits(found, rule, value, depth):
        found.errors.append(f"{place}: is what it must not be")


def reference(found: Checked, rule: Any, value: Any, place: str, depth: int) -> None:
    """A part of the same schema, by its JSON pointer."""
    if not isinstance(rule, str) or not rule.startswith("#"):
        found.unchecked.add(f"$ref to {rule!r:.60}")
        return
    part = found.root
    for step in rule[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        part = part[int(step)] if isinstance(part, list) else part[step]
    visit(found, part, value, place, depth + 1)


COMBINING: Mapping[str, Callable[[Checked, Any, Any, str, int], None]] = {
    "allOf": all_of, "anyOf": any_of, "oneOf": one_of, "not": not_this, "$ref": reference,
}  # fmt: skip


def canonical(value: Any) -> str:
    """Equal for values that JSON calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return json.dumps(value)


def of_type(rule: Any, value: Any) -> str | None:
    """The type, or one of several."""
    names = rule if isinstance(rule, list) else [rule]
    return (
        None
        if any(TYPES[name](value) for name in names)
        else f"{canonical(value)[:60]} is not of type {' or '.join(names)}"
    )


def in_enum(rule: Any, value: Any) -> str | None:
    """One of a list of values."""
    return (
        None
        if canonical(value) in [canonical(item) for item in rule]
        else f"{canonical(value)[:60]} is not one of the values"
    )


def limit(
    applies: str, size: Callable[[Any], Any], holds: Callable[[Any, Any], bool], words: str
) -> Callable[[Any, Any], str | None]:
    """A rule about a size that counts for one type only."""

    def judge(rule: Any, value: Any) -> str | None:
        if not TYPES[applies](value) or holds(size(value), rule):
            return None
        return f"{words} {rule}"

    return judge


PLAIN: Mapping[str, Callable[[Any, Any], str | None]] = {
    "type": of_type,
    "enum": in_enum,
    "const": lambda rule, value: in_enum([rule], value),
    "minimum": limit("number", lambda value: value, lambda size, rule: bool(size >= rule), "less than"),
    "maximum": limit("number", lambda value: value, lambda size, rule: bool(size <= rule), "more than"),
    "exclusiveMinimum": limit("number", lambda value: value, lambda size, rule: bool(size > rule), "not more than"),
    "exclusiveMaximum": limit("number", lambda value: value, lambda size, rule: bool(size < rule), "not less than"),
    "multipleOf": limit("number", lambda value: value, lambda size, rule: size % rule == 0, "no multiple of"),
    "minLength": limit("string", len, lambda size, rule: bool(size >= rule), "shorter than"),
    "maxLength": limit("string", len, lambda size, rule: bool(size <= rule), "longer than"),
    "pattern": limit(
        "string", lambda text: text[:MOST_TEXT], lambda text, rule: bool(re.search(rule, text)), "does not fit"
    ),
    "minItems": limit("array", len, lambda size, rule: bool(size >= rule), "fewer items than"),
    "maxItems": limit("array", len, lambda size, rule: bool(size <= rule), "more items than"),
    "uniqueItems": limit(
        "array", lambda items: len({canonical(item) for item in items}) == len(items),
        lambda unique, rule: unique or not rule, "items repeat, uniqueItems is",
    ),
    "minProperties": limit("object", len, lambda size, rule: bool(size >= rule), "fewer properties than"),
    "maxProperties": limit("object", len, lambda size, rule: bool(size <= rule), "more properties than"),
}  # fmt: skip
