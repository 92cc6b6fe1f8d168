"""Where a Hugging Face Llama 4 checkpoint holds each weight: text-only or multi-modal, experts fused or not."""

from __future__ import annotations

from collections.abc import Collection

from twofold.models.llama4_config import Llama4Config
from twofold.models.network import find_prefix, stacked, vector
from twofold.ops.types import Role, Source, Target


def llama4_targets(config: Llama4Config, names: Collection[str]) -> list[Target]:
    """The weight table, in the order the forward pass reads it."""
    prefix = find_prefix(names)
    hidden, vocabulary = config.hidden, config.vocabulary
    embedding = stacked([(f"{prefix}model.embed_tokens.weight", vocabulary)], hidden)
    targets = [Target(name="embedding", role="embedding", shape=(vocabulary, hidden), sources=(embedding,))]
    for index in range(config.layers):
        theirs = f"{prefix}model.layers.{index}"
        targets += attention_targets(config, f"layers.{index}", theirs)
        if config.moe_layers[index]:
            fused = f"{theirs}.feed_forward.experts.gate_up_proj" in names
            targets += moe_targets(config, f"layers.{index}", f"{theirs}.feed_forward", fused)
        else:
            feed_forward = f"{theirs}.feed_forward"
            targets += swiglu_targets(config, f"layers.{index}", feed_forward, config.dense_width, "dense")
    targets.append(vector("final_norm", f"{prefix}model.norm.weight", hidden))
    if not config.tied_head:
        head = stacked([(f"{prefix}lm_head.weight", vocabulary)], hidden)
        targets.append(Target(name="head", role="head", shape=(vocabulary, hidden), sources=(head,)))
    return targets


def attention_targets(config: Llama4Config, ours: str, theirs: str) -> list[Target]:
    """Norms and attention of one layer; q, k and v are joined because they read the same input."""
    hidden = config.hidden
    q_rows, kv_rows = config.heads * config.head_size, config.kv_heads * config.head_size
    parts = [("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)]
    qkv = stacked([(f"{theirs}.self_attn.{part}.weight", rows) for part, rows in parts], hidden)
    output = stacked([(f"{theirs}.self_attn.o_proj.weight", hidden)], q_rows)
    return [
        vector(f"{ours}.attention_norm", f"{theirs}.input_layernorm.weight", hidden),
        Target(name=f"{ours}.qkv", role="attention", shape=(q_rows + 2 * kv_rows, hidden), sources=(qkv,)),
        Target(name=f"{ours}.output", role="attention", shape=(hidden, q_rows), sources=(output,)),
        vector(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm.weight", hidden),
    ]


def swiglu_targets(config: Llama4Config, ours: str, theirs: str, width: int, role: Role) -> list[Target]:
    """One SwiGLU: gate and up joined, then down."""
    hidden = config.hidden
    gate_up = stacked([(f"{theirs}.gate_proj.weight", width), (f"{theirs}.up_proj.weight", width)], hidden)
    down = stacked([(f"{theirs}.down_proj.weight", hidden)], width)
    return [
        Target(name=f"{ours}.gate_up", role=role, shape=(2 * width, hidden), sources=(gate_up,)),
        Target(name=f"{ours}.down", role=role, shape=(hidden, width), sources=(down,)),
    ]


def moe_targets(config: Llama4Config, ours: str, theirs: str, fused: bool) -> list[Target]:
    """Router, shared expert and routed experts of one layer."""
    hidden, width, count = config.hidden, config.expert_width, config.expert_count
    gate_up, down = (fused_experts if fused else separate_experts)(config, f"{theirs}.experts")
    router = stacked([(f"{theirs}.router.weight", count)], hidden)
    return [
        Target(name=f"{ours}.router", role="router", shape=(count, hidden), sources=(router,)),
        *swiglu_targets(config, ours, f"{theirs}.shared_expert", width, "shared"),
        Target(name=f"{ours}.experts_gate_up", role="expert", shape=(count, 2 * width, hidden), sources=gate_up),
        Target(name=f"{ours}.experts_down", role="expert", shape=(count, hidden, width), sources=down),
    ]


Matrices = tuple[tuple[Source, ...], ...]


def fused_experts(config: Llama4Config, theirs: str) -> tuple[Matrices, Matrices]:
    """All experts in one tensor, stored [in, out]; gate is the first half of the output columns, up the second."""
    hidden, width, count = config.hidden, config.expert_width, config.expert_count

    def slices(part: str, shape: tuple[int, int, int]) -> Matrices:
        name = f"{theirs}.{part}"
        return tuple((Source(name=name, shape=shape, expert=e, transposed=True),) for e in range(count))

    return slices("gate_up_proj", (count, hidden, 2 * width)), slices("down_proj", (count, width, hidden))


def separate_experts(config: Llama4Config, theirs: str) -> tuple[Matrices, Matrices]:
    """Three ordinary [out, in] matrices per expert, as tools that quantise checkpoints write them."""
    hidden, width, experts = config.hidden, config.expert_width, range(config.expert_count)
    gate_up = tuple(
        stacked([(f"{theirs}.{e}.gate_proj.weight", width), (f"{theirs}.{e}.up_proj.weight", width)], hidden)
        for e in experts
    )
    down = tuple(stacked([(f"{theirs}.{e}.down_proj.weight", hidden)], width) for e in experts)
    return gate_up, down
