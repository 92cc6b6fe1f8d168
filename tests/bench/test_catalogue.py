"""The catalogue of machines: what ships, and what is said of a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.bench.catalogue import STATES, find_machine, own_catalogue, parse, read_catalogue
from twofold.bench.prices import own_book
from twofold.errors import SettingsError

CATALOGUE = """
[kinds.box]
sustained_read = 0.8
sustained_int8 = 0.5
sustained_float = 0.4
usable_memory = 0.9
unsure = 1.5
runs = "works"
source = "measured"
noted = 2026-01-31
[machines.cellar]
kind = "box"
memory_bytes = 100e9
read_bytes_per_s = 50e9
bf16_ops_per_s = 4e12
int8_ops_per_s = 8e12
power_w = 100
source = "its sheet"
noted = 2026-01-31
"""


def test_the_catalogue_that_ships_says_of_every_machine_where_its_figures_are_from() -> None:
    catalogue, book = own_catalogue(), own_book()
    for name, sheet in catalogue.items():
        assert "check before use" in sheet.source, name
        assert sheet.noted.year >= 2025
        assert sheet.kind.runs in STATES
        if sheet.price is not None:
            book.machine(sheet.price)
        assert sheet.f32_ops_per_s is None or sheet.f32_ops_per_s <= sheet.bf16_ops_per_s
    kinds = ("xeon", "epyc", "aws-r8g", "nvidia-h100", "nvidia-h200", "nvidia-b200", "amd-mi300x", "amd-mi325x",
             "intel-gaudi-3", "nvidia-rtx-4090", "nvidia-rtx-5090", "nvidia-rtx-6000-ada", "nvidia-l4", "nvidia-l40s",
             "nvidia-a10g", "apple", "snapdragon-8", "raspberry-pi-5", "jetson")  # fmt: skip
    for kind in kinds:
        assert any(name.startswith(kind) for name in catalogue), kind


def test_a_users_catalogue_is_read_and_its_limits_are_what_can_be_reached(tmp_path: Path) -> None:
    path = tmp_path / "machines.toml"
    path.write_text(CATALOGUE)
    sheet = read_catalogue(path)["cellar"]
    assert (sheet.usable_bytes, sheet.watts, sheet.count) == (90e9, 100, 1)
    assert sheet.limits.read_bytes_per_s == pytest.approx(40e9)
    assert sheet.limits.int8_ops_per_s == pytest.approx(4e12)
    assert sheet.limits.fp8_ops_per_s == sheet.limits.float_ops_per_s == pytest.approx(1.6e12)


def test_several_that_work_as_one_have_that_much_more_of_everything() -> None:
    one = parse(CATALOGUE, "here")["cellar"]
    eight = parse(CATALOGUE.replace("power_w", "count = 8\npower_w"), "here")["cellar"]
    assert eight.usable_bytes == 8 * one.usable_bytes
    assert eight.limits.read_bytes_per_s == pytest.approx(8 * one.limits.read_bytes_per_s)
    assert eight.watts == 800


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("memory_bytes = 100e9", "memory_bytes = -1", "machines.cellar: memory_bytes is -1; a number above 0"),
        ("memory_bytes = 100e9", "memory_bytes = inf", "memory_bytes is inf"),
        ("memory_bytes = 100e9", "memory_bytes = true", "memory_bytes is True"),
        ("memory_bytes = 100e9\n", "", "machines.cellar has no memory_bytes"),
        ("memory_bytes", "memory_byte", "'memory_byte' is not known; did you mean memory_bytes?"),
        ('kind = "box"', 'kind = "bix"', "kind is 'bix'; did you mean box?"),
        ('kind = "box"', "kind = 3", "kind is 3; a text was expected"),
        (
            "sustained_read = 0.8",
            "sustained_read = 1.2",
            "kinds.box: sustained_read is 1.2; a share above 0, at most 1",
        ),
        ("unsure = 1.5", "unsure = 0.5", "unsure is 0.5; a factor of at least 1"),
        ('runs = "works"', 'runs = "perhaps"', "runs is 'perhaps'; one of works"),
        ("power_w = 100", "power_w = 100\ncount = 1.5", "count is 1.5; a whole number from 1"),
        ("power_w = 100", "power_w = 100\ncount = 1e9", "count is 1000000000.0; a whole number from 1"),
        ("[machines.cellar]", "[machine.cellar]", "did you mean machines?"),
        ("[machines.cellar]", "[machines]", "machines.kind is 'box'; a table"),
        ('source = "its sheet"', 'source = " "', "source is ' '"),
        ('sheet"\nnoted = 2026-01-31', 'sheet"\nnoted = "2026-01-31"', "noted is '2026-01-31'; a date"),
        ("[kinds.box]", "[kinds.box", "is no TOML"),
    ],
)
def test_what_is_wrong_in_a_catalogue_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in CATALOGUE
    path = tmp_path / "machines.toml"
    path.write_text(CATALOGUE.replace(old, new, 1))
    with pytest.raises(SettingsError) as error:
        read_catalogue(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_a_machine_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean cellar"):
        find_machine(parse(CATALOGUE, "here"), "celler")


def test_a_file_that_is_no_catalogue_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_catalogue(tmp_path / "none.toml")
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(SettingsError, match="larger than"):
        read_catalogue(path)
