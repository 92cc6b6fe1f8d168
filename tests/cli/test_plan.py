"""twofold plan as a user types it, on a config alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models.test_configs import SCOUT

CALL = [sys.executable, "-c", "from twofold.cli.main import main; main()", "plan"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CALL, *arguments], capture_output=True, text=True, timeout=60)


def found(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("scout") / "config.json"
    path.write_text(json.dumps(SCOUT))
    return str(path)


def test_a_config_alone_is_planned_for_this_machine() -> None:
    result = run("demo", "--price-per-hour", "0.1", "--on", "this")
    assert result.returncode == 0, result.stderr
    for words in ("expert", "read per token", "cache of 2,048 tokens", "measured now", "0.1 per hour", "w4a8", "fp8"):
        assert words in result.stdout, words


def test_a_machine_of_the_catalogue_is_told_with_what_runs_there(config: str) -> None:
    result = run(config, "--on", "nvidia-h100-80gb")
    assert result.returncode == 0, result.stderr
    for words in ("no kernels of ours yet", "does not fit", "217.3 GB", "3 per hour", "attention", "193.3 GB"):
        assert words in result.stdout, words


def test_a_wish_names_the_cheapest_machine_and_why_others_do_not_meet_it(config: str) -> None:
    result = run(config, "--users", "20", "--tokens-per-second", "15")
    assert result.returncode == 0, result.stderr
    for words in ("Cheapest for 20 users at 15 tokens/s each, 8,192 tokens:", "a month", "GB short", "too slow"):
        assert words in result.stdout, words


def test_an_impossible_wish_says_what_is_missing_and_by_how_much(config: str) -> None:
    result = run(config, "--users", "20", "--budget-per-month", "10")
    assert result.returncode == 0, result.stderr
    assert "Nothing with a price meets 20 users" in result.stdout
    assert "above the budget of 10.00" in result.stdout


def test_json_has_bytes_by_part_every_machine_and_the_cheapest(config: str) -> None:
    plan = found(config, "--users", "4", "--context", "32768", "--kv-cache-dtype", "int8")
    assert plan["nominal_bytes"]["bf16"] == 217_283_587_072
    assert sum(plan["bytes"]["bf16"].values()) == 215_548_579_840
    assert plan["bytes"]["fp8"]["expert"] < 97e9
    assert plan["wish"]["context"] == 32768
    chosen = {(item["machine"], item["scheme"]) for item in plan["outcomes"] if not item["missing"]}
    assert tuple(plan["cheapest_that_runs"]) in chosen
    assert len(plan["outcomes"]) == 4 * len({item["machine"] for item in plan["outcomes"]})


def test_a_scheme_and_a_catalogue_of_ones_own_are_used(config: str, tmp_path: Path) -> None:
    catalogue = tmp_path / "mine.toml"
    text = (Path(__file__).parents[2] / "src/twofold/bench/machines.toml").read_text()
    catalogue.write_text(text[: text.index("# Rented CPU")] + text[text.index("[machines.epyc-9755]") :])
    plan = found(config, "--on", "all", "--scheme", "w4a8", "--catalogue", str(catalogue))
    assert plan["outcomes"][0]["machine"] == "epyc-9755"
    assert {item["scheme"] for item in plan["outcomes"]} == {"w4a8"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--on", "nvidia-h100-80"), "did you mean nvidia-h100-80gb?"),
        (("--scheme", "mixed"), "mixed takes as many bytes as w4a8"),
        (("--context", "20000000"), "at most 10485760 tokens"),
        (("--users", "0"), "--users"),
        (("--budget-per-month", "0"), "--budget-per-month"),
        (("--on", "all", "--price-per-hour", "1"), "add --on this"),
        (("--catalogue", "./none.toml", "--on", "all"), "cannot be read"),
        (("--prices", "./none.toml"), "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(config: str, arguments: tuple[str, ...], words: str) -> None:
    result = run(config, *arguments)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
