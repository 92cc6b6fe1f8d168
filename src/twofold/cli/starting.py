"""What `serve` does between loading a model and taking requests: warming up, counting."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twofold.api import LLM
    from twofold.phases import Phases
    from twofold.server.about import About
    from twofold.server.cost import Price
    from twofold.server.facts import Facts

LEAVE_S = 30.0
"""How long a server that lost a rank may take to leave."""


def prepare(llm: LLM, version: str, price: Price | None, phases: Phases) -> Facts:
    """Warm up, count experts, have the limit measured; what the server is told. `phases` hears of the warming up."""
    from twofold.cli.read_limit import ReadLimit
    from twofold.ops.cost import expected_read_bytes
    from twofold.placing import rehearse
    from twofold.server.facts import Facts, unknown

    if rehearse(llm.loaded.settings, llm.engine):
        phases.end("kernels")
    warm_up(llm)
    phases.end("warm-up")
    architecture, chosen = llm.loaded.model.architecture, llm.loaded.settings
    counted = llm.loaded.model.footprint(chosen.dtype)
    return Facts(
        build=build(llm, version),
        phases=phases.seconds,
        price=price,
        read_bytes=partial(expected_read_bytes, counted, architecture.expert_count),
        read_limit=ReadLimit(llm).value if llm.loaded.settings.backend == "cpu" else unknown,
        expert_counts=count_experts(llm),
        expert_uses=expert_uses(llm),
    )


def warm_up(llm: LLM) -> None:
    """Run a prompt and a step of decoding, so that the first request does not pay for what happens once."""
    from twofold.engine.request import SamplingParams

    llm.engine.add([0, 0], SamplingParams(temperature=0.0, max_tokens=2))
    while not llm.engine.is_idle:
        llm.engine.step()
    llm.engine.blocks.asked_tokens = 0  # nobody asked


def count_experts(llm: LLM) -> Callable[[], list[list[int]]] | None:
    """Have the engine's ops count tokens per expert from now on; None for a network without experts.

    None on a GPU too: the counts would have to come back to the host in every layer; a graph does not tell them.
    """
    from twofold.ops.observe import ExpertLoad

    is_routed = any(target.role == "router" for target in llm.loaded.model.targets)
    if not is_routed or llm.loaded.settings.backend in ("gpu", "onnx"):
        return None
    watched = ExpertLoad(llm.engine.ops)
    llm.engine.ops = watched
    return lambda: [count_E.tolist() for count_E in watched.counted()]


def expert_uses(llm: LLM) -> Callable[[], tuple[int, int, int]] | None:
    """What becomes of experts in the host's memory; None where they are all on the device."""
    if not llm.loaded.settings.expert_cache:
        return None
    ops: Any = llm.loaded.ops
    return lambda: (ops.uses.hits, ops.uses.misses, ops.uses.copied_bytes)


def build(llm: LLM, version: str) -> dict[str, str]:
    """Labels of twofold:build_info."""
    chosen = llm.loaded.settings
    return {
        "version": version,
        "python": platform.python_version(),
        "architecture": llm.loaded.model.architecture.name,
        "backend": chosen.backend,
        "isa": str(getattr(llm.loaded.ops, "isa", "")) if chosen.backend == "cpu" else "",
        "dtype": chosen.dtype,
        "kv_cache_dtype": chosen.kv_cache_dtype,
    }


def told(phases: Mapping[str, float]) -> str:
    """The phases of a start in one line."""
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())
    return f"started in {sum(phases.values()):.2f} s: {parts}"


def about(llm: LLM) -> About:
    """What clients of the server are told of the model."""
    from twofold.server.about import About
    from twofold.weights.gguf_checkpoint import GgufCheckpoint

    model, chosen = llm.loaded.model, llm.loaded.settings
    architecture, counted = model.architecture, model.footprint(chosen.dtype)
    plain = "gguf" if isinstance(model.store, GgufCheckpoint) else "safetensors"
    kept = plain if model.packed_dtype is None else "onnx" if chosen.backend == "onnx" else "twofold"
    return About(
        family=architecture.family,
        format=kept,
        dtype=chosen.dtype,
        parameters=counted.total_parameters,
        size_bytes=counted.total_bytes,
        layers=architecture.layers,
        hidden=architecture.hidden,
        vocabulary=architecture.vocabulary,
        trained_context=architecture.context,
        threads=count_threads(chosen.backend),
    )


def watch_ranks(llm: LLM, tell: Callable[[str], None]) -> None:
    """From now on, have the server leave when a rank of the model ends. Raises RankLost when one has."""
    ranks = llm.loaded.ranks
    if ranks is None:
        return
    ranks.check()

    def leave(reason: str) -> None:
        tell(f"error: {reason}")
        last = threading.Timer(LEAVE_S, os._exit, (1,))  # a device may wait for the lost rank for ever
        last.daemon = True
        last.start()
        os.kill(os.getpid(), signal.SIGTERM)

    ranks.on_loss = leave


def end_ranks(llm: LLM) -> None:
    """End the other ranks of the model. Raises RankLost when the server left because of one."""
    llm.close()
    if llm.loaded.ranks is not None:
        llm.loaded.ranks.check()


def count_threads(backend: str) -> int:
    """Threads that compute."""
    if backend not in ("cpu", "onnx"):
        return 1
    from twofold.backends.cpu.machine import cpu

    return cpu().threads
