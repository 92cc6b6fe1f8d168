"""Two ranks answer as one: the runs of two_ranks.py, each a test."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.backends.gpu.two_ranks import RUNS
from tests.toys import LLAMA, LLAMA3_ROPE, LLAMA4, SCOUT_ROPE, Toy, write_toy

SIZES = {"head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 90}
"""Every rank gets 64 columns of attention, and the ranks unequal parts of the vocabulary: 3 panels, one not full."""
TOYS = {
    "scout": Toy(
        "llama4",
        {**LLAMA4, **SIZES, "interleave_moe_layer_step": 1, "intermediate_size": 128, "rope_scaling": SCOUT_ROPE},
    ),
    "maverick": Toy(
        "llama4",
        {**LLAMA4, **SIZES, "use_qk_norm": False, "intermediate_size": 192, "intermediate_size_mlp": 320,
         "num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "llama3": Toy(
        "llama",
        {**LLAMA, **SIZES, "intermediate_size": 192, "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": True},
    ),
}  # fmt: skip
PRODUCTS = [
    f"{form} {columns}" for form in ("int8", "int4", "group4", "bf16", "fp8") for columns in (128, 192, 300, 1216)
]
WORST = {"f32": 1e-5, "bf16": 2e-3}
"""Float32 sums in another order; a bfloat16 cache may round such a sum to its neighbour, 1 / 256 away."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes print together."""
    folder = tmp_path_factory.mktemp("ranks")
    toys = []
    for name, toy in TOYS.items():
        write_toy(toy, folder / name)
        toys.append(f"{name}={folder / name}")
    command = [sys.executable, "-m", "tests.backends.gpu.two_ranks"]
    with subprocess.Popen([*command, "1", str(folder / "meeting"), *toys]) as other:
        try:
            first = [*command, "0", str(folder / "meeting"), *toys]
            done = subprocess.run(first, capture_output=True, text=True, check=False, timeout=120)
        finally:
            other.kill() if other.poll() is None and other.wait(20) is None else None
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", [f"{toy} {' '.join(way)}" for toy, ways in RUNS.items() for way in ways])
def test_two_ranks_give_the_tokens_of_one(found: dict[str, Any], name: str) -> None:
    (run,) = [run for run in found["runs"] if run["name"] == name]
    assert run["same_tokens"]
    assert run["heads"] == [1, 2]
    if run["dtype"] in ("w8a8", "w4a8"):
        assert run["same_bits"]
    else:
        assert run["worst"] < WORST[run["dtype"]]


@pytest.mark.parametrize("name", PRODUCTS)
def test_columns_on_two_ranks_give_the_product_of_all(found: dict[str, Any], name: str) -> None:
    (product,) = [product for product in found["products"] if product["name"] == name]
    if name.startswith("int"):
        assert product["same_bits"]
    else:
        assert product["worst"] < 3e-6  # float32 sums in another order
