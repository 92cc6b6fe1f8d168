"""A network with its weights, alone or as one rank of several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from twofold.config import Resolved
from twofold.errors import SettingsError
from twofold.export.manifest import ExportedGraph
from twofold.graphs import open_forward
from twofold.leading import LeadingOps, Ranks, led
from twofold.models.network import Forward
from twofold.offloading import load_offloaded
from twofold.ops.interface import Ops
from twofold.ops.packed import Packer
from twofold.ops.types import CacheShape, Weight
from twofold.placing import build_ops, build_rank, captured
from twofold.shares import share_architecture, share_of
from twofold.weights.load import load
from twofold.weights.packed_file import PackedFile, read_packed

if TYPE_CHECKING:
    from twofold.backends.gpu.group import Group
    from twofold.loading import Model, Progress

ORIGINAL = "take the original checkpoint"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its weights, as one rank runs it. cache_shape: of the whole network. group: its ranks, if any.

    told: what the user should know of where its weights are, empty when there is nothing.
    """

    ops: Ops
    forward: Forward
    cache_shape: CacheShape
    group: Group | None = None
    told: str = ""


def load_ranks(
    model: Model, path_or_id: str, settings: Resolved, progress: Progress | None
) -> tuple[Ranks | None, Network]:
    """The network of these settings, and the processes that share it where there are several."""
    if settings.ranks == 1:
        return None, load_network(model, settings, 0, progress)
    ranks = Ranks(path_or_id, settings)
    try:
        network = load_network(model, settings, 0, progress)
        assert network.group is not None, "several ranks are a group"
        ranks.join(network.group)
    except BaseException:
        ranks.close()
        raise
    return ranks, replace(network, ops=LeadingOps(network.ops, ranks), forward=led(network.forward, ranks))


def load_network(model: Model, settings: Resolved, rank: int, progress: Progress | None = None) -> Network:
    """A network with its weights on one rank (0 where there is only one)."""
    architecture = model.architecture
    if settings.expert_cache:
        bound = partial(bind, model, settings, progress=progress)
        ops, forward, told = load_offloaded(model, settings, bound)
        return Network(ops=ops, forward=forward, cache_shape=architecture.cache_shape, told=told)
    if settings.ranks == 1:
        ops = build_ops(settings)
        forward = captured(settings, ops, bind(model, settings, ops.packer, progress))
        return Network(ops=ops, forward=forward, cache_shape=architecture.cache_shape)
    share = share_of(architecture, settings, rank)
    ops, group = build_rank(settings, rank, share.cut)
    weights = read_weights(model, settings.dtype, ops.packer, progress)
    forward = share_architecture(architecture, share).bind(weights)
    return Network(ops=ops, forward=forward, cache_shape=architecture.cache_shape, group=group)


def bind(model: Model, settings: Resolved, packer: Packer, progress: Progress | None = None) -> Forward:
    """The network with its weights, or its graph in ONNX Runtime."""
    if isinstance(model.store, ExportedGraph):
        return open_forward(model.store, settings)
    return model.architecture.bind(read_weights(model, settings.dtype, packer, progress))


def read_weights(model: Model, dtype: str, packer: Packer, progress: Progress | None) -> dict[str, Weight]:
    """Pack a checkpoint's weights, or read those of a packed folder."""
    if isinstance(model.store, ExportedGraph):
        raise SettingsError(f"{model.folder} is an exported graph, whose weights only ONNX Runtime uses; {ORIGINAL}")
    if isinstance(model.store, PackedFile):
        return read_packed(model.store, model.targets, model.formats(dtype), packer, progress)
    return load(model.store, model.targets, model.formats(dtype), packer, progress)
