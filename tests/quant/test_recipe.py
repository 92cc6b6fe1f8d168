"""Recipes that make no sense are refused before anything is opened."""

from __future__ import annotations

import pytest

from twofold.errors import SettingsError
from twofold.quant.recipe import METHODS, TRANSFORMS, Recipe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "awq"}, "must be one of gptq, round"),
        ({"transform": "spin"}, "must be one of none, rotate, smooth"),
        ({"scheme": "mixed", "transform": "rotate"}, "cannot be combined"),
    ],
)
def test_what_is_not_known_or_does_not_go_together_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Recipe(**{"scheme": "w4a8", **changes})


def test_text_is_needed_where_something_looks_at_it() -> None:
    needs = {
        (scheme, method, transform)
        for scheme in ("w4a8", "mixed")
        for method in METHODS
        for transform in TRANSFORMS
        if (scheme, transform) in (("w4a8", "none"), ("w4a8", "rotate"), ("w4a8", "smooth"), ("mixed", "none"))
        and Recipe(scheme, method, transform=transform).needs_text
    }
    assert ("w4a8", "round", "none") not in needs
    assert ("w4a8", "round", "rotate") not in needs
    assert {("w4a8", "gptq", "none"), ("w4a8", "round", "smooth"), ("mixed", "round", "none")} <= needs
