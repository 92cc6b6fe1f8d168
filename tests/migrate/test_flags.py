from __future__ import annotations

import re

import pytest

from twofold.cli.serve import command as serve
from twofold.migrate.flags import Flag, flags, programs, variables
from twofold.migrate.translate import is_exact, new_command, read_command, rewritten
from twofold.migrate.words import shell_words

OPTIONS = {name for option in serve.params for name in option.opts}
PROGRAMS = {program.name: program for program in programs()}


def translated(program: str, text: str) -> tuple[bool, str, str]:
    given = read_command(PROGRAMS[program], shell_words(text, 0, len(text)))
    exact = is_exact(PROGRAMS[program], given)
    return (
        exact,
        new_command(PROGRAMS[program], given),
        rewritten(text, 0, 0, PROGRAMS[program], given) if exact else "",
    )


@pytest.mark.parametrize("flag", flags(), ids=lambda flag: f"{flag.program} {flag.names[0]}")
def test_what_a_flag_becomes_is_an_option_of_serve(flag: Flag) -> None:
    assert flag.why
    for name in flag.names:
        new = flag.new_name(name)
        assert flag.how not in ("same", "value") or new in ("MODEL", *OPTIONS) or set(flag.values.values()) == {""}, (
            name
        )
        for named in re.findall(r"--[a-z][a-z-]+", flag.becomes):
            assert named in OPTIONS or named == "--gate-kv", named


@pytest.mark.parametrize(
    "flag", [flag for flag in flags() if flag.how in ("none", "look")], ids=lambda flag: flag.names[0]
)
def test_a_flag_that_serve_has_is_not_said_to_be_missing(flag: Flag) -> None:
    missing = [name for name in flag.names if name in OPTIONS and name not in flag.becomes]
    assert missing == [], f"twofold serve has {missing} now: change flags.toml and run the test of docs/migration.md"


def test_names_in_the_environment_become_options_that_exist() -> None:
    for variable in variables():
        for named in re.findall(r"--[a-z][a-z-]+", variable.becomes):
            assert named in OPTIONS, named


def test_a_command_of_known_flags_is_translated_exactly() -> None:
    exact, new, text = translated("vLLM", " 'my model' --max_model_len=99 --dtype auto \\\n  --enforce-eager --port 1")
    assert exact
    assert new == "twofold serve --host 0.0.0.0 my model --context 99 --port 1"
    assert text == "twofold serve --host 0.0.0.0 'my model' --context=99 --port 1"


def test_defaults_that_differ_are_written_out_unless_given() -> None:
    assert translated("vLLM", " m --host 1.2.3.4")[2] == "twofold serve m --host 1.2.3.4"
    assert translated("TGI", " --model-id m")[2] == "twofold serve --host 0.0.0.0 --port 3000 m"
    assert translated("llama.cpp", " -m m.gguf -t 4")[2] == "twofold serve --port 8080 m.gguf --threads 4"


@pytest.mark.parametrize(
    "text",
    [
        " m --tensor-parallel-size 2",
        " m --unheard-of 3",
        " m --gpu-memory-utilization 0.9",
        " m --dtype half",
        " --port 8000",
        " m n",
    ],
)
def test_a_command_with_anything_else_is_for_a_person(text: str) -> None:
    assert not translated("vLLM", text)[0]


def test_values_are_told_with_what_they_become() -> None:
    flag = PROGRAMS["vLLM"].flag("--dtype")
    assert flag is not None
    assert flag.told("--dtype", "half").startswith("half: no equivalent; auto: leave it out; bfloat16: --dtype bf16")
