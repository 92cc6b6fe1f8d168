"""Measuring on a device: one call that fails, the first one too, does not keep the others from running."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="pip install 'twofold[gpu]'")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_calls_run_and_the_one_that_fails_is_told(failing: int) -> None:
    from benchmarks.gpu.timing import compile_all

    ran = []

    def call(index: int) -> None:
        ran.append(index)
        if index == failing:
            raise ValueError(f"kernel {index} does not compile")

    assert compile_all([lambda index=index: call(index) for index in range(3)]) == [
        f"ValueError: kernel {failing} does not compile"
    ]
    assert sorted(ran) == [0, 1, 2]


def test_nothing_to_compile_is_nothing_that_failed() -> None:
    from benchmarks.gpu.timing import compile_all

    assert compile_all([]) == []
