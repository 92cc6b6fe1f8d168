from __future__ import annotations

import pytest

from tests.migrate.conftest import found_in, source_of
from twofold.migrate.flags import programs, variables
from twofold.migrate.matching import has_signs
from twofold.migrate.rules import rules

STOP = 'stop = ["<|eot_id|>"]\n'


def safe(text: str, name: str = "a.py") -> list[str]:
    return [item.rule for item in found_in(text, name) if item.is_safe]


def test_a_string_of_code_is_safe_and_a_comment_or_documentation_is_not() -> None:
    assert safe(STOP) == ["end-of-turn"]
    for text in ("# <|eot_id|>\n", '"""Ends with <|eot_id|>."""\n', 'def f():\n    """<|eot_id|>"""\n'):
        found = found_in(text)
        assert [(item.is_safe, item.confidence) for item in found] == [(False, "low")]
        assert "comment" in found[0].why


@pytest.mark.parametrize(
    "text",
    [
        STOP + 'other = "<|im_start|>"\n',
        STOP + 'new = "<|eot|>"\n',
        'HELP = "Llama 3 ends turns with <|eot_id|>"\n',
        STOP + "def broken(:\n",
    ],
    ids=["another model's mark", "Llama 4's mark", "prose in a string", "does not parse"],
)
def test_in_doubt_nothing_is_changed_but_told(text: str) -> None:
    assert safe(text) == []
    assert "end-of-turn" in [item.rule for item in found_in(text)]


@pytest.mark.parametrize("name", ["tests/a.py", "src/test_a.py", "fixtures/a.json", "web/a.spec.ts", "a.ipynb"])
def test_tests_fixtures_and_notebooks_are_told_and_not_changed(name: str) -> None:
    text = '["<|eot_id|>"]'
    assert [(item.rule, item.is_safe) for item in found_in(text, name)] == [("end-of-turn", False)]


def test_a_number_counts_by_the_name_it_is_given_to() -> None:
    assert safe("generate(stop_token_ids=[128001, 128_009])") == ["end-of-text-id", "end-of-turn-id"]
    assert safe("config = {'eos_token_id': 128009}") == ["end-of-turn-id"]
    assert safe("def f(*, eos_token_id=128009): ...") == ["end-of-turn-id"]
    assert safe("stopTokenIds: [128001, 128009],", "a.ts") == ["end-of-text-id", "end-of-turn-id"]
    assert safe("eos_token_id:\n  - 128001 # one\n  - 128009\n", "a.yaml") == ["end-of-text-id", "end-of-turn-id"]
    assert safe("run --stop-token-ids 128001 128009", "a.sh") == ["end-of-text-id", "end-of-turn-id"]


@pytest.mark.parametrize(
    "text", ["order = 128009", "price = [128001]", "buffer = 8192", "x = 8192 * 4", "seconds = 128256"]
)
def test_a_number_with_another_meaning_is_nothing(text: str) -> None:
    assert found_in(text) == []


def test_a_bare_id_in_a_file_about_llama_is_told_with_little_confidence() -> None:
    found = found_in("# llama\nif token == 128009:\n    stop()\n")
    assert [(item.rule, item.confidence, item.is_safe) for item in found] == [("end-of-turn-id", "low", False)]


def test_mistrals_marks_are_told_with_little_confidence() -> None:
    text = 'MODEL = "mistralai/Mistral-7B"\nprompt = "[INST] x [/INST]"\n'
    assert [(item.rule, item.confidence) for item in found_in(text)] == [("llama2-turn", "low")]


def test_a_prompt_by_hand_is_told_once_in_a_file_also_when_its_tokens_are_new() -> None:
    old = 'a = "<|start_header_id|>user<|end_header_id|>"\nb = "<|start_header_id|>"\n'
    assert [item.rule for item in found_in(old)].count("prompt-by-hand") == 1
    new = old.replace("start_header_id", "header_start").replace("end_header_id", "header_end")
    assert [item.rule for item in found_in(new)] == ["prompt-by-hand"]


def test_a_file_that_is_named_after_llama_3_may_be_meant_for_it_alone() -> None:
    assert safe(STOP, "templates/llama3.json") == []
    assert safe(STOP, "llama3_client/a.py") == []


def test_every_rule_and_launch_has_a_sign_that_is_looked_for_first() -> None:
    for rule in rules():
        assert has_signs(source_of(rule.example[1], rule.example[0])), rule.name
    for program in programs():
        assert has_signs(source_of(program.sign, "a.sh")), program.name
    for variable in variables():
        for name in variable.names:
            assert has_signs(source_of(f"{name} {variable.needs}", "a.sh")), name
    assert not has_signs(source_of("x = 1\n"))


def test_other_models_with_the_vocabulary_of_llama_3_keep_it() -> None:
    for parent in ("PretrainedConfig", "LlamaConfig"):
        text = f"class OwnConfig({parent}):\n    vocab_size = 128256\n"
        assert ("vocabulary-size", False) in [(item.rule, item.is_safe) for item in found_in(text)]
