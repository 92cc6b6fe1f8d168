from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.bench.proof.proofs import HOSTILE
from twofold.bench.proof.svg import Svg, element, group, path_of, printable


def test_strings_are_escaped_and_own_markup_is_not() -> None:
    inner = element("title", HOSTILE)
    drawn = element("text", inner, HOSTILE, x=1.5, text_anchor="end", class_="label", aria_label=HOSTILE)
    parsed = ET.fromstring(drawn.text)
    assert [child.tag for child in parsed] == ["title"]
    assert parsed[0].text == printable(HOSTILE)
    assert parsed[0].tail == printable(HOSTILE)
    assert parsed.attrib == {"x": "1.5", "text-anchor": "end", "class": "label", "aria-label": printable(HOSTILE)}


def test_what_no_page_may_hold_is_replaced() -> None:
    assert printable("a\x00b\ud800c\td\r\ne\x9f\rf") == "a\ufffdb\ufffdc\td\ne\ufffd\ufffdf"
    printable(HOSTILE).encode()


def test_numbers_are_short() -> None:
    assert element("g", x=1 / 3, y=2.0, z=-0.0001).text == '<g x="0.33" y="2" z="0"/>'
    assert path_of([(0, 1.5), (2, 3)]) == "M0 1.5L2 3"
    assert group([Svg("<a/>"), Svg("<b/>")]).text == "<g><a/><b/></g>"
