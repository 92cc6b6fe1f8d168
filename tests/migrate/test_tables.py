from __future__ import annotations

from pathlib import Path

from twofold.migrate.tables import filled, tables

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"


def test_the_page_is_in_step_with_the_rules() -> None:
    page = PAGE.read_text("utf-8")
    assert page == filled(page), "run python -m twofold.migrate.tables docs/migration.md"


def test_every_table_has_rows_with_all_their_cells() -> None:
    for name, text in tables().items():
        lines = [line.replace("\\|", "") for line in text.split("\n")]
        assert len(lines) > 3, name
        assert len({line.count("|") for line in lines}) == 1, name
        assert not any("|  |" in line for line in lines), name
