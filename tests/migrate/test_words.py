from __future__ import annotations

import shlex

import pytest

from twofold.migrate.words import list_words, shell_words


@pytest.mark.parametrize(
    "text", ["a b  c", 'a \'b c\' "d \\" e" f\\ g', "x=1 --y='{\"a\": 2}' \\\n  -z", "a\tb", "one\"two\"'three'"]
)
def test_words_are_those_of_a_shell_and_stand_where_they_say(text: str) -> None:
    words = shell_words(text, 0, len(text))
    assert [word.text for word in words] == shlex.split(text.replace("\\\n", ""))  # as sh has it
    assert all(shlex.split(text[word.start : word.end]) == [word.text] for word in words)


@pytest.mark.parametrize("rest", ["; c", " && c", " | c", "\nc", " # c", " > c", ' "c'])
def test_a_command_ends_where_the_shell_ends_it(rest: str) -> None:
    assert [word.text for word in shell_words("a b" + rest, 0, len("a b" + rest))] == ["a", "b"]


def test_variables_stay_as_they_are() -> None:
    text = 'a "$B" ${C:-d e} $(f g)'
    assert [word.text for word in shell_words(text, 0, len(text))] == ["a", "$B", "${C:-d e}", "$(f g)"]


def test_lists_of_json_yaml_and_code() -> None:
    for text in ('"a", "--b", "c d"', "'a', '--b', 'c d'", '\n  - a\n  - --b\n  - "c d"'):
        assert [word.text for word in list_words(text, 0, len(text))] == ["a", "--b", "c d"]
