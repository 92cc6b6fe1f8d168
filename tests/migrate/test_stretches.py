from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.migrate.stretches import stretches


def roles(text: str, kind: str) -> list[tuple[str, str]]:
    return [(text[part.start : part.end], part.role) for part in stretches(text, kind).parts]


def test_python_is_code_strings_and_comments_and_documentation_is_a_comment() -> None:
    text = '"""Doc."""\nx = f"a{y}" + \'b\'  # why\n'
    assert [item for item in roles(text, "python") if item[1] != "code"] == [
        ('"""Doc."""', "comment"), ('f"a{y}"', "string"), ("'b'", "string"), ("# why", "comment"),
    ]  # fmt: skip


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_places_are_right_with_all_line_ends_and_letters(ends: str) -> None:
    text = ends.join(["# ü", 'ä = "öß"  # €', "\u2028 = 1" if False else 'b = """x', 'y"""', ""])
    assert [item for item in roles(text, "python") if item[1] == "string"] == [
        ('"öß"', "string"), (f'"""x{ends}y"""', "string"),
    ]  # fmt: skip


def test_javascript_knows_templates_patterns_and_division() -> None:
    text = 'a = 4 / 2; b = `x ${"y"} /* */`; c = s.replace(/["\'`]/g, "z"); // end\n/* "q" */ d = "\\"w"'
    found = [item for item in roles(text, "javascript") if item[1] != "code"]
    assert found == [
        ('`x ${"y"} /* */`', "string"), ("/[\"'`]/g", "string"), ('"z"', "string"), ("// end", "comment"),
        ('/* "q" */', "comment"), ('"\\"w"', "string"),
    ]  # fmt: skip


def test_comments_of_settings_and_templates() -> None:
    assert ("# no", "comment") in roles("a: b#c # no\n", "yaml")
    assert ("; no", "comment") in roles("; no\na=b\n", "settings")
    assert ("{# no #}", "comment") in roles("{# no #}{{ x }}", "jinja")


@given(st.text(alphabet="ab\"'`\\/#*{}()=: \r\n\ud800é", max_size=60))
def test_the_parts_of_any_text_are_the_text(text: str) -> None:
    for kind in ("python", "javascript", "yaml", "json", "jinja", "settings"):
        assert "".join(part for part, _ in roles(text, kind)) == text
