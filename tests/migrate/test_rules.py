from __future__ import annotations

import pytest

from tests.migrate.conftest import found_in
from twofold.migrate.rules import Rule, rules, rules_for

BY_NAME = {rule.name: rule for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_a_rule_finds_its_example_and_not_what_looks_like_it(rule: Rule) -> None:
    name, text = rule.example
    found = [item for item in found_in(text, name) if item.rule == rule.name]
    assert found
    assert found[0].is_safe == (rule.put is not None)
    name, text = rule.counterexample
    assert rule.name not in [item.rule for item in found_in(text, name)]


def test_names_are_unique_and_every_rule_says_what_and_why() -> None:
    assert len(BY_NAME) == len(rules())
    for rule in rules():
        assert all((rule.what, rule.why, rule.becomes)), rule.name
        assert (rule.pattern is None) == (rule.number is not None), rule.name


def test_what_is_llama_3s_may_stay_for_those_who_move_to_llama_3() -> None:
    assert BY_NAME["end-of-turn"] not in rules_for("llama3")
    assert BY_NAME["llama2-turn"] in rules_for("llama3")
    assert found_in('stop = ["<|eot_id|>"]', to="llama3") == []


def test_tokens_become_those_of_our_own_template() -> None:
    from importlib import resources

    own = (resources.files("twofold.text") / "templates" / "llama4.jinja").read_text("utf-8")
    for name in ("header-start", "header-end", "end-of-turn"):
        assert f"<|{BY_NAME[name].put}|>" in own


@pytest.mark.parametrize("text", ["<|eot_id|>", r"<\|eot_id\|>", r"<\\|eot_id\\|>", r"\u003c|eot_id|\u003e"])
def test_a_token_is_found_with_the_escapes_of_json_and_patterns_and_keeps_them(text: str) -> None:
    found = found_in(f'["{text}"]', "a.json")
    assert [(item.rule, item.found, item.replacement) for item in found] == [("end-of-turn", "eot_id", "eot")]
