"""A small Llama 4 on the device against the reference: whole prompts, pieces, single tokens, many sequences at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.gpu import networks
from twofold.backends.gpu.weights import to_device
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.engine.request import SamplingParams
from twofold.ops import packed
from twofold.ops.formats import format_of
from twofold.ops.reference import ReferenceOps, ReferencePacker
from twofold.ops.types import KvDtype

TOLERANCES = {"f32": 1e-4, "bf16": 0.03, "fp8": 0.3, "w8a8": 0.08, "w4a8": 0.12}
"""Distance of a token's logits, relative to their length: what rounding x to the weight's dtype costs at most (to
float8 0.2 where rows are read together, 0.001 one by one), or codes of activations that fall to the other side (in
plain torch 0.04 and 0.07). Other logits are 1.4 away.

That holds for every token where all experts are active. With one of four a token between two experts takes the other
one for a difference in the last bit, and those behind it see what it gave: then it holds for half of the tokens.
"""
MOST_DIFFERENT = {"f32": 0.0, "bf16": 0.45, "fp8": 1.0, "w8a8": 0.45, "w4a8": 0.45}
"""Share of greedy tokens that may differ between sequences decoded together and alone.

Best logits of random networks are close, and one flip changes the rest of an answer. Rows of bfloat16 and float8 are
rounded where there are more than four of them; prompts are cut into other pieces beside others.
"""
ACTIVE = (4, 1)


def check_networks(device: str, dtypes: tuple[str, ...] = tuple(TOLERANCES)) -> list[str]:
    """Names of what differs too much."""
    wrong = []
    for dtype in dtypes:
        for active in ACTIVE:
            for name, error in network_errors(device, dtype, active).items():
                named = f"network {dtype}, {active} of {networks.SMALL['num_local_experts']} experts, {name}"
                print(f"{named}: {error:.2e}", flush=True)
                if not error <= (MOST_DIFFERENT[dtype] if name == "greedy" else TOLERANCES[dtype]):
                    wrong.append(f"{named}: {error}")
    return wrong


def network_errors(device: str, dtype: str, active: int) -> dict[str, float]:
    """Errors of logits over a prompt of several chunks, cut into steps of several lengths, and of greedy decoding."""
    architecture = networks.network({**networks.SMALL, "num_experts_per_tok": active})
    rng = np.random.default_rng(3)
    chosen, packer = networks.formats_of(dtype), ReferencePacker()
    host: dict[str, Any] = {}
    for target in architecture.targets(()):
        form = format_of(chosen, target)
        values = rng.standard_normal(target.shape, np.float32) * (0.05 if len(target.shape) > 1 else 0) + (
            0 if len(target.shape) > 1 else 1
        )
        weight = packed.place(form, target.shape, packer.arena(packed.size_bytes(form, target.shape)))
        if isinstance(weight, packed.Dense):
            weight.values[...] = values
        else:
            for index in range(target.shape[0]) if len(target.shape) == 3 else [None]:
                part, rows = (weight, values) if index is None else (packed.matrix(weight, index), values[index])
                packer.encode(rows, part, 0)
        host[target.name] = weight
    prompt = rng.integers(0, architecture.vocabulary, 150).tolist()
    kv_dtype: KvDtype = "f32" if dtype == "f32" else "bf16"
    expected = logits(make(ReferenceOps(kv_dtype), architecture, host, 256), prompt)
    ops = networks.build_ops(device, kv_dtype)
    own = {name: to_device(weight, ops.device) for name, weight in host.items()}
    found = {}
    for step in (256, 33, 7, 1):
        rows = logits(make(ops, architecture, own, step), prompt)
        far_T = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
        found[f"steps of {step}"] = float(far_T.max() if active > 1 else np.median(far_T))
    found["greedy"] = greedy_difference(ops, architecture, own)
    return found


def make(ops: Any, architecture: Any, weights: Any, step_tokens: int) -> Engine:
    """An engine for up to 24 short sequences."""
    shape, forward = architecture.cache_shape, architecture.bind(weights)
    capture = getattr(ops, "captured", None)
    return Engine(
        ops,
        capture(forward) if capture else forward,
        shape,
        plan_layout(shape.chunk, 24 * 256, step_tokens, 24),
        EngineLimits(context=256, step_tokens=step_tokens, max_sequences=24, vocabulary=architecture.vocabulary),
    )


def logits(engine: Engine, prompt: list[int]) -> Any:
    """Logits after every token."""
    return np.concatenate(list(engine.score(prompt)))


def greedy_difference(ops: Any, architecture: Any, weights: Any) -> float:
    """Share of tokens that sequences decoded together do not share with themselves alone (through graphs on CUDA)."""
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, architecture.vocabulary, int(length)).tolist() for length in (3, 60, 64, 65, 100)]
    params = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)

    def answers(given: list[list[int]]) -> list[list[int]]:
        engine = make(ops, architecture, weights, 64)
        found: dict[int, list[int]] = {engine.add(prompt, params).id: [] for prompt in given}
        while not engine.is_idle:
            for event in engine.step():
                found[event.request_id].append(event.drawn.token)
        return list(found.values())

    together = answers(prompts)
    alone = [answers([prompt])[0] for prompt in prompts]
    different = sum(a != b for one, other in zip(together, alone, strict=True) for a, b in zip(one, other, strict=True))
    return different / sum(map(len, together))
