"""What launches are told apart by; tests.backends.gpu.pretending compares whole loads with Triton's own launches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton
from torch import Tensor

from twofold.backends.gpu.kernels.launching import cdiv, compiled, key_of, launch, power_from

WHOLE = torch.zeros(64)
KERNEL = object()


def key(*arguments: Any, **constants: Any) -> Any:
    return key_of(KERNEL, (WHOLE, *arguments), constants)


def test_launches_that_triton_compiles_apart_have_different_keys() -> None:
    given: list[Any] = [
        WHOLE[4:],
        WHOLE[1:],
        WHOLE.to(torch.bfloat16),
        WHOLE.int(),
        1,
        16,
        17,
        2**31,
        -(2**31) - 1,
        1.0,
    ]
    keys = {key(item) for item in given}
    assert len(keys) == len(given)
    assert key(5, WIDTH=1) != key(5, WIDTH=2)
    assert key(5, num_warps=4) != key(5, num_warps=8)
    assert key_of(object(), (WHOLE,), {}) != key_of(KERNEL, (WHOLE,), {})


def test_other_launches_share_a_key() -> None:
    assert key(17) == key(19)
    assert key(32) == key(4096)
    assert key(0.5) == key(2.0)
    assert key(WHOLE[4:]) == key(torch.ones(9))


def test_every_constant_has_a_name() -> None:
    parameters = [SimpleNamespace(is_constexpr=False), SimpleNamespace(is_constexpr=True)]
    kernel = SimpleNamespace(params=parameters, arg_names=["x", "WIDTH"], warmup=lambda *_, **__: "compiled")
    assert compiled(kernel, (WHOLE,), {"num_warps": 4, "WIDTH": 7}) == ("compiled", (7,))
    with pytest.raises(AssertionError, match="constants have names"):
        compiled(kernel, (WHOLE, 7), {"num_warps": 4})
    with pytest.raises(AssertionError, match="Python's own numbers"):
        compiled(SimpleNamespace(params=[], arg_names=[]), (WHOLE, np.int64(7)), {})
    with pytest.raises(KeyError):
        compiled(kernel, (WHOLE,), {"num_warps": 4})


def test_the_interpreter_launches_for_itself() -> None:
    class Interpreted:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **constants: seen.append((grid, arguments, constants))

    seen: list[tuple[tuple[int, ...], tuple[Tensor, ...], dict[str, int]]] = []
    launch(Interpreted(), (3,), WHOLE, WIDTH=7)
    assert seen == [((3,), (WHOLE,), {"WIDTH": 7})]


def test_numbers_are_those_of_triton() -> None:
    for number in range(1, 300):
        assert power_from(number) == triton.next_power_of_2(number)
        assert cdiv(number, 7) == triton.cdiv(number, 7)
