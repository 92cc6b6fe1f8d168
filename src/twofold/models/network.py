"""What every architecture hands to the house: a config's summary, its weight table and its forward function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twofold.ops.types import Array, Batch, CacheShape, LayerCache, Rope, Source, Target, Weight

if TYPE_CHECKING:
    from twofold.ops.interface import Ops

Forward = Callable[["Ops", Batch, list[LayerCache]], Array]
"""forward(ops, batch, cache) -> logits_RV of the rows the batch asks for."""
BlockForward = Callable[["Ops", Array, Array, Batch, LayerCache], Array]
"""block(ops, x_TD, angles, batch, cache) -> the residual stream x_TD after one decoder layer."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture as read from a config.json.

    `context` is the number of positions it was made for. `targets(names)` is the weight table for a checkpoint
    with these tensor names. `bind(weights)` gives its forward function, `block(weights, index)` that of one decoder
    layer, which needs only the weights named layers.{index}.*. `rope` and `epsilon` are the network's rotary positions
    and what its norms add to the mean square. `warnings` are worth telling the user.
    """

    name: str
    family: str
    layers: int
    hidden: int
    vocabulary: int
    context: int
    active_experts: int
    expert_count: int
    cache_shape: CacheShape
    targets: Callable[[Collection[str]], list[Target]]
    bind: Callable[[Mapping[str, Weight]], Forward]
    block: Callable[[Mapping[str, Weight], int], BlockForward]
    rope: Rope
    epsilon: float
    config: Any
    warnings: tuple[str, ...] = ()


def vector(name: str, source: str, size: int) -> Target:
    """A norm's weight."""
    return Target(name=name, role="norm", shape=(size,), sources=((Source(name=source, shape=(size,)),),))


def stacked(sources: list[tuple[str, int]], columns: int) -> tuple[Source, ...]:
    """Matrices of the checkpoint, [rows, columns] each, whose rows follow one another in one weight."""
    return tuple(Source(name=name, shape=(rows, columns)) for name, rows in sources)


def find_prefix(names: Collection[str]) -> str:
    """What stands before "model.layers." in this checkpoint: "language_model." in multi-modal Llama 4 files."""
    return "language_model." if any(name.startswith("language_model.") for name in names) else ""
