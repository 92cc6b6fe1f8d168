"""The choice is the best there is: against every other one on small cases."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from twofold.quant.choose import Chosen, Option, Options, least_bytes, least_damage, least_size

SEEDS = range(30)


def random_options(seed: int, groups: int = 5, most: int = 40) -> dict[str, list[Option]]:
    """Groups of three options of random sizes, not sorted, damage falling with size but for some noise."""
    rng = np.random.default_rng(seed)
    found = {}
    for index in range(groups):
        sizes = rng.integers(1, most, 3).tolist()
        found[f"group {index}"] = [
            Option(format=form, size_bytes=size, damage=round(float(rng.random() / size), 4))
            for form, size in zip(("int4", "bf16", "int8"), sizes, strict=True)
        ]
    return found


def every_choice(options: Options) -> list[tuple[int, float]]:
    """Size and damage of every way to choose."""
    ways = product(*options.values())
    return [(sum(item.size_bytes for item in way), sum(item.damage for item in way)) for way in ways]


def totals(chosen: Chosen) -> tuple[int, float]:
    return sum(item.size_bytes for item in chosen.values()), sum(item.damage for item in chosen.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_no_choice_within_the_size_does_less_damage(seed: int) -> None:
    options = random_options(seed)
    least = least_bytes(options)
    assert least == min(size for size, _ in every_choice(options))
    for room in (0, 1, 7, 30, 1000):
        size, damage = totals(least_damage(options, least + room))
        assert size <= least + room
        assert damage == pytest.approx(min(found for size, found in every_choice(options) if size <= least + room))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_choice_within_the_damage_is_smaller(seed: int) -> None:
    options = random_options(seed)
    best = min(damage for _, damage in every_choice(options))
    for limit in (best + 1e-9, best + 0.02, best + 0.1, best + 9):
        size, damage = totals(least_size(options, limit))
        assert damage <= limit
        assert size == min(found for found, lost in every_choice(options) if lost <= limit)


def test_large_sizes_are_counted_in_steps_and_never_exceeded() -> None:
    rng = np.random.default_rng(7)
    options = {
        str(index): [
            Option(format="int4", size_bytes=size, damage=float(damage)),
            Option(format="int8", size_bytes=2 * size, damage=float(damage) / 20),
            Option(format="bf16", size_bytes=4 * size, damage=0.0),
        ]
        for index, (size, damage) in enumerate(
            zip(rng.integers(10**7, 10**9, 60).tolist(), rng.random(60), strict=True)
        )
    }
    most = int(1.3 * least_bytes(options))
    chosen = least_damage(options, most)
    size, damage = totals(chosen)
    assert 0.995 * most <= size <= most
    gains = sorted((found[0].damage - found[1].damage) / found[0].size_bytes for found in options.values())
    assert damage < sum(found[0].damage for found in options.values()) - gains[0] * (most - least_bytes(options))
    assert list(chosen) == list(options)


def test_equals_take_the_smaller_one_and_then_the_first() -> None:
    same = [Option(format=form, size_bytes=size, damage=0.5) for form, size in (("int8", 8), ("int4", 4), ("bf16", 4))]
    assert least_damage({"one": same}, 100)["one"].format == "int4"
    assert least_size({"one": same}, 0.5)["one"].format == "int4"
