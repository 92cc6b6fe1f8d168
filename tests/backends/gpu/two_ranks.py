"""Two ranks over gloo that run the same requests side by side, and what the first of them finds beside one rank alone.

    python -m tests.backends.gpu.two_ranks RANK MEETING TOY=FOLDER ...

The first prints JSON: a list of runs, and a list of products.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu.group import Group
from twofold.backends.gpu.ops import TorchOps
from twofold.backends.gpu.ranked import RankedOps
from twofold.backends.gpu.shards import Cut, Partial, ShardPacker, stretch_of, take
from twofold.backends.gpu.weights import to_device
from twofold.config import ExpertSplit
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.engine.request import SamplingParams
from twofold.models.registry import read_architecture
from twofold.ops.cases import outliers, pack
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import KvDtype
from twofold.quant.schemes import scheme
from twofold.shares import Share, share_architecture
from twofold.weights.checkpoint import Checkpoint, read_json
from twofold.weights.load import load

DEVICE = torch.device("cpu")
RUNS: dict[str, list[tuple[str, ExpertSplit, KvDtype]]] = {
    "scout": [
        ("f32", "width", "f32"), ("bf16", "width", "bf16"), ("w8a8", "width", "int8"), ("w4a8", "width", "f32"),
    ],
    "maverick": [("f32", "width", "f32"), ("w8a8", "expert", "f32"), ("w4a8", "width", "int8")],
    "llama3": [("f32", "width", "f32"), ("w4a8", "width", "f32")],
}  # fmt: skip


def build(folder: Path, dtype: str, split: ExpertSplit, kv_dtype: KvDtype, group: Group | None) -> Engine:
    """An engine of one rank, or of the whole network."""
    architecture, checkpoint = read_architecture(read_json(folder, "config.json")), Checkpoint.open(folder)
    targets = architecture.targets(checkpoint.names)
    shape, ops = architecture.cache_shape, Any
    ops = TorchOps(DEVICE, CpuOps().packer, kv_dtype)
    if group is not None:
        config = architecture.config
        sizes = {"heads": config.heads, "kv_heads": config.kv_heads, "head_size": config.head_size}
        share = Share(rank=group.rank, ranks=group.ranks, expert_split=split, **sizes)
        ops = RankedOps(ops, group, ShardPacker(CpuOps().packer, DEVICE, share.cut))
        architecture = share_architecture(architecture, share)
    forward = architecture.bind(load(checkpoint, targets, scheme(dtype), ops.packer, None))
    limits = EngineLimits(context=64, step_tokens=10, max_sequences=4, vocabulary=architecture.vocabulary)
    return Engine(ops, forward, shape, plan_layout(shape.chunk, 256, 10, 4), limits)


def answers(engine: Engine) -> list[list[int]]:
    """Tokens of requests that begin at different times, greedy and drawn, across chunks and steps."""
    rng = np.random.default_rng(2)
    ways = [SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, seed=4), SamplingParams(top_k=9, seed=5)]
    found: dict[int, list[int]] = {}
    sizes = [3, 29, 8, 12]
    for size, way in zip(sizes, itertools.cycle(ways), strict=False):
        prompt = rng.integers(3, 88, size).tolist()
        request = engine.add(prompt, replace(way, max_tokens=5, ignore_eos=True))
        found[request.id] = []
        for event in engine.step() + engine.step():
            found[event.request_id].append(event.drawn.token)
    while not engine.is_idle:
        for event in engine.step():
            found[event.request_id].append(event.drawn.token)
    return list(found.values())


def logits(engine: Engine) -> Any:
    """Logits of a text, a chunk boundary and an end of a step within."""
    tokens = np.random.default_rng(3).integers(3, 88, 37).tolist()
    return np.concatenate(list(engine.score(tokens)))


def compare(name: str, folder: Path, group: Group) -> list[dict[str, Any]]:
    """Every run of a toy, on both ranks and on the first alone."""
    results = []
    for dtype, split, kv_dtype in RUNS[name]:
        engine = build(folder, dtype, split, kv_dtype, group)
        tokens, found = answers(engine), logits(engine)
        if group.rank:
            continue
        alone = build(folder, dtype, split, kv_dtype, None)
        expected = logits(alone)
        results.append(
            {
                "name": f"{name} {dtype} {split} {kv_dtype}",
                "dtype": dtype,
                "same_tokens": tokens == answers(alone),
                "same_bits": bool(np.array_equal(found, expected)),
                "worst": float(np.abs(found - expected).max() / np.abs(expected).max()),
                "heads": [engine.cache[0].keys.shape[1], alone.cache[0].keys.shape[1]],
            }
        )
    return results


def products(group: Group) -> list[dict[str, Any]]:
    """Products with columns on two ranks, of tokens of which some are wide, beside those on one."""
    rng = np.random.default_rng(6)
    results = []
    for form, columns in itertools.product(("int8", "int4", "group4", "bf16", "fp8"), (128, 192, 300, 1216)):
        x_TD = torch.from_numpy(outliers(rng, 7, columns))
        weight = pack(ReferenceOps(), form, rng.standard_normal((50, columns), np.float32) / 8)
        own = stretch_of(columns, 64, group.rank, group.ranks)
        part = Partial(to_device(take(weight, Cut(kind="partial", columns=own)), DEVICE), own.start, columns)
        ops = TorchOps(DEVICE, CpuOps().packer, "f32")
        ranked = RankedOps(ops, group, ShardPacker(CpuOps().packer, DEVICE, lambda _: Cut()))
        found_TN = ranked.linear(x_TD[:, own.start : own.stop], part)
        expected_TN = ops.linear(x_TD, to_device(weight, DEVICE))
        worst = float((found_TN - expected_TN).abs().max() / expected_TN.abs().max())
        results.append({"name": f"{form} {columns}", "same_bits": torch.equal(found_TN, expected_TN), "worst": worst})
    return results


def main() -> None:
    torch.set_num_threads(1)
    group = Group(int(sys.argv[1]), 2, DEVICE)
    group.join(Path(sys.argv[2]))
    toys = dict(item.split("=") for item in sys.argv[3:])
    runs = [result for name, folder in toys.items() for result in compare(name, Path(folder), group)]
    found = {"runs": runs, "products": products(group)}
    group.leave()
    if group.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
