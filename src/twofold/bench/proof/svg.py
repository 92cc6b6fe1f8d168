"""SVG as text: an element is made of names, numbers and escaped strings, so no string from outside becomes markup."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Svg:
    """Markup of our own making; templates take it as it is."""

    text: str

    def __html__(self) -> str:
        """What a template that escapes puts in."""
        return self.text


def element(name: str, *children: Svg | str, **attributes: str | float) -> Svg:
    """One element. Strings among the children are escaped; in names of attributes _ stands for -, class_ for class."""
    written = "".join(f' {attribute(key)}="{value_of(value)}"' for key, value in attributes.items())
    inner = "".join(child.text if isinstance(child, Svg) else escape(printable(child)) for child in children)
    return Svg(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def group(children: list[Svg], **attributes: str | float) -> Svg:
    """Elements that belong together."""
    return element("g", *children, **attributes)


def printable(text: str) -> str:
    """The text with a mark in place of what no page may hold: control characters but tab and line feed, half pairs."""
    return NOT_TEXT.sub("\ufffd", text.replace("\r\n", "\n"))


def path_of(points: list[tuple[float, float]]) -> str:
    """Straight lines through the points, as the attribute d wants it."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def attribute(key: str) -> str:
    """class_ is class, font_size is font-size."""
    return key.rstrip("_").replace("_", "-")


def value_of(value: str | float) -> str:
    """An attribute's value, escaped."""
    return escape(printable(value)) if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """At most two decimals: a hundredth of a pixel."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
