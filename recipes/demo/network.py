"""Llama 4 text in torch for training: sparse dispatch, local layers as independent chunks.

Parameters carry the names and shapes of Hugging Face's Llama4ForCausalLM, so a state dict is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of the demo network.

    Weightless QK-norm bounds a score by sqrt(head_size): heads of 32 can put at most about half of their attention on
    one of 256 keys, and copying was not learnt within 3 million tokens; heads of 64 can put 90 % there. theta is small
    because rotating layers never look further than one chunk.
    """

    vocabulary: int = 3072
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    experts: int = 8
    width: int = 128
    chunk: int = 256
    context: int = 2048
    theta: float = 500.0
    floor: int = 256
    scale: float = 0.1
    epsilon: float = 1e-5

    def rotates(self, layer: int) -> bool:
        """Every fourth layer has no positions and sees everything."""
        return (layer + 1) % 4 != 0


class Norm(nn.Module):
    """RMS norm with a weight."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class Attention(nn.Module):
    """Grouped-query attention, local with rotation or global without."""

    def __init__(self, shape: Shape, rotates: bool) -> None:
        super().__init__()
        self.shape, self.rotates = shape, rotates
        inner, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        self.q_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden, bias=False)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, L, D]."""
        batch, length, _ = x.shape
        shape = self.shape
        q = self.q_proj(x).view(batch, length, shape.heads, shape.head_size)
        k = self.k_proj(x).view(batch, length, shape.kv_heads, shape.head_size)
        v = self.v_proj(x).view(batch, length, shape.kv_heads, shape.head_size)
        if self.rotates:
            q, k = (unit_norm(rotate(part, angles), shape.epsilon) for part in (q, k))
        else:
            positions = torch.arange(length, dtype=torch.float32)
            factors = 1 + shape.scale * torch.log1p(torch.floor((positions + 1) / shape.floor))
            q = q * factors[:, None, None].to(q.dtype)
        if self.rotates and length > shape.chunk:
            q, k, v = (chunked(part, shape.chunk) for part in (q, k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def chunked(x: Tensor, chunk: int) -> Tensor:
    """[B, L, H, K] -> [B * L / chunk, chunk, H, K]; the length is a multiple of the chunk."""
    return x.reshape(-1, chunk, *x.shape[2:])


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate interleaved pairs, in float32."""
    cosine, sine = angles[0][: x.shape[1], None, :], angles[1][: x.shape[1], None, :]
    first, second = x.float()[..., 0::2], x.float()[..., 1::2]
    turned = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def unit_norm(x: Tensor, epsilon: float) -> Tensor:
    """Weightless RMS norm of every head."""
    return F.rms_norm(x, (x.shape[-1],), None, epsilon)


class SwiGlu(nn.Module):
    """The shared expert."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate x) * up x)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """Routed experts, all in two tensors [E, in, out]; gate is the first half of the columns."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(shape.experts, shape.hidden, 2 * shape.width))
        self.down_proj = nn.Parameter(torch.empty(shape.experts, shape.width, shape.hidden))

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """x is sorted by expert, counts[e] rows for expert e."""
        outputs = []
        for expert, rows in enumerate(x.split(counts)):
            gate, up = (rows @ self.gate_up_proj[expert]).chunk(2, dim=-1)
            outputs.append((F.silu(gate) * up) @ self.down_proj[expert])
        return torch.cat(outputs)


class FeedForward(nn.Module):
    """Router, routed experts (top 1, gate on the input) and the shared expert."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.router = nn.Linear(shape.hidden, shape.experts, bias=False)
        self.experts = Experts(shape)
        self.shared_expert = SwiGlu(shape.hidden, shape.width)
        self.balance = torch.zeros(())
        self.load = torch.zeros(shape.experts)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x [B, L, D], real [B * L] false at padding; leaves the balance loss and the load per expert behind."""
        flat = x.reshape(-1, x.shape[-1])
        logits = F.linear(flat.float(), self.router.weight.float())
        best, chosen = logits.max(dim=-1)
        counts = torch.bincount(chosen, minlength=logits.shape[-1])
        self.load = torch.bincount(chosen[real], minlength=logits.shape[-1]) / real.sum()
        self.balance = logits.shape[-1] * (self.load * logits[real].softmax(dim=-1).mean(dim=0)).sum()
        order = chosen.argsort(stable=True)
        scaled = (flat * torch.sigmoid(best)[:, None].to(flat.dtype))[order]
        routed = torch.empty_like(flat)
        out = self.experts(scaled, counts.tolist())
        routed = routed.to(out.dtype).index_copy(0, order, out)
        return self.shared_expert(x) + routed.view(x.shape)


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape, shape.rotates(index))
        self.post_attention_layernorm = Norm(shape.hidden, shape.epsilon)
        self.feed_forward = FeedForward(shape)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
        """Pre-norm residual block."""
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.feed_forward(self.post_attention_layernorm(x), real)


class Body(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, index) for index in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)


class Network(nn.Module):
    """The whole network; forward gives the hidden state before the head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        exponents = torch.arange(0, shape.head_size, 2).float() / shape.head_size
        turns = torch.arange(shape.context).float()[:, None] / shape.theta**exponents
        self.angles = (turns.cos(), turns.sin())
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                deep = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
                nn.init.normal_(parameter, std=0.02 if not deep else 0.02 / (2 * shape.layers) ** 0.5)

    def forward(self, ids: Tensor, padding: int = -1) -> Tensor:
        """Normalised hidden state [B, L, D] of ids [B, L]; longer than a chunk, L must be a multiple of it."""
        x, real = self.model.embed_tokens(ids), (ids != padding).flatten()
        for layer in self.model.layers:
            x = layer(x, self.angles, real)
        return self.model.norm(x)

    @property
    def balance(self) -> Tensor:
        """Mean load-balancing loss of the layers of the last forward pass."""
        return torch.stack([layer.feed_forward.balance for layer in self.model.layers]).mean()

    @property
    def load(self) -> Tensor:
        """Share of tokens per expert, [layers, E], of the last forward pass."""
        return torch.stack([layer.feed_forward.load for layer in self.model.layers])
