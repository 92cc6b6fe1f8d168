"""A dense Llama checkpoint as an OpenVINO model that keeps its own cache, as its exporters write them (stateful).

Matrices: w4a8 stores four bits with a float16 scale per 32 columns (what Q4_0 does), w8a8 eight bits with one per row;
embedding and head eight bits per row. The last position alone goes through the head.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from twofold.weights.checkpoint import Checkpoint

GROUP = 32
LOWEST = -65504.0


def quantize_rows(rows_ND: np.ndarray, group: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes in -top..top-1 as int8 [N, D / group, group] and float16 scales; a group's extreme value becomes -top."""
    groups = rows_ND.reshape(len(rows_ND), -1, group)
    extremes = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1, keepdims=True), axis=-1)
    scales = (extremes / -top).astype(np.float16)
    inverse = np.divide(1.0, scales, out=np.zeros(scales.shape, np.float32), where=scales != 0)
    return np.clip(np.rint(groups * inverse), -top, top - 1).astype(np.int8), scales


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte, the first in the low half."""
    flat = codes.reshape(-1, 2).astype(np.uint8) & 15
    packed: np.ndarray = flat[:, 0] | (flat[:, 1] << 4)
    return packed


def compressed(values: np.ndarray, bits: int) -> Any:
    """A weight as OpenVINO's plugins recognise it: integers, converted, scaled, reshaped."""
    rows, columns = values.shape
    codes, scales = quantize_rows(values.astype(np.float32), GROUP if bits == 4 else columns, 2 ** (bits - 1))
    if bits == 4:
        tensor = ov.Tensor(ov.Type.i4, ov.Shape(codes.shape))  # owns its memory; one over an array would not keep that
        ov.Tensor(pack_nibbles(codes), list(codes.shape), ov.Type.i4).copy_to(tensor)
        stored = ops.constant(tensor)
    else:
        stored = ops.constant(codes)
    scaled = ops.multiply(ops.convert(stored, "f16"), ops.constant(scales))
    return ops.convert(ops.reshape(scaled, ops.constant(np.array([rows, columns])), False), "f32")


class Graph:
    """Builds the model layer by layer; `bits` of the matrices inside the layers."""

    def __init__(self, config: dict[str, Any], checkpoint: Checkpoint, bits: int) -> None:
        self.config, self.checkpoint, self.bits = config, checkpoint, bits
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.size = config["head_dim"]
        self.tokens = ops.parameter([-1, -1], np.int64, name="input_ids")
        self.positions = ops.parameter([1, -1], np.int64, name="position_ids")
        self.beams = ops.parameter([-1], np.int32, name="beam_idx")
        self.sinks: list[Any] = []

    def linear(self, x: Any, name: str) -> Any:
        """x times a matrix of the checkpoint."""
        return ops.matmul(x, compressed(self.checkpoint.tensor(f"{name}.weight"), self.bits), False, True)

    def norm(self, x: Any, name: str) -> Any:
        """RMS norm."""
        weight = ops.constant(self.checkpoint.tensor(f"{name}.weight").astype(np.float32)[None, None])
        mean = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1]), True)
        scale = ops.divide(np.float32(1), ops.sqrt(ops.add(mean, np.float32(self.config["rms_norm_eps"]))))
        return ops.multiply(weight, ops.multiply(x, scale))

    def rotation(self) -> tuple[Any, Any]:
        """Cosine and sine [1, 1, T, size] of every position."""
        steps = np.arange(0, self.size, 2, dtype=np.float32) / self.size
        speeds = ops.constant((1.0 / self.config["rope_theta"] ** steps)[None, None].astype(np.float32))
        angles = ops.multiply(ops.unsqueeze(ops.convert(self.positions, "f32"), np.array(2)), speeds)
        both = ops.unsqueeze(ops.concat([angles, angles], -1), np.array(1))
        return ops.cos(both), ops.sin(both)

    def rotate(self, x: Any, rotation: tuple[Any, Any]) -> Any:
        """Turn halves against each other."""
        first, second = ops.split(x, np.array(3), 2).outputs()
        turned = ops.concat([ops.multiply(second, np.float32(-1)), first], -1)
        return ops.add(ops.multiply(x, rotation[0]), ops.multiply(turned, rotation[1]))

    def split_heads(self, x: Any, heads: int) -> Any:
        """[B, T, heads * size] to [B, heads, T, size]."""
        return ops.transpose(ops.reshape(x, np.array([0, 0, heads, self.size]), True), np.array([0, 2, 1, 3]))

    def remember(self, new: Any, name: str) -> Any:
        """Everything cached under a name and the new entries behind it, cached in turn."""
        batch = ops.gather(ops.shape_of(self.tokens), np.array([0]), np.array(0))
        empty = ops.concat([batch, np.array([self.kv_heads, 0, self.size])], 0)
        start = ops.broadcast(np.float32(0), empty)
        shape = [-1, self.kv_heads, -1, self.size]
        past = ops.read_value(start, name, np.float32, shape)
        whole = ops.concat([ops.gather(past, self.beams, np.array(0)), new], 2)
        self.sinks.append(ops.assign(whole, name))
        return whole

    def share_heads(self, x: Any) -> Any:
        """Every key-value head as often as query heads use it."""
        times = self.heads // self.kv_heads
        wide = ops.broadcast(
            ops.unsqueeze(x, np.array(2)), np.array([1, 1, times, 1, 1]), broadcast_spec="BIDIRECTIONAL"
        )
        return ops.reshape(wide, np.array([0, self.heads, -1, self.size]), True)

    def mask(self, keys: Any) -> Any:
        """[1, 1, T, S]: nothing for what a position may see, a very negative number for the rest."""
        count = ops.squeeze(ops.gather(ops.shape_of(keys), np.array([2]), np.array(0)), np.array([0]))
        places = ops.range(np.int64(0), count, np.int64(1), "i64")
        hidden = ops.greater(
            ops.unsqueeze(places, np.array([0, 1, 2])), ops.unsqueeze(self.positions, np.array([1, 3]))
        )
        return ops.select(hidden, np.float32(LOWEST), np.float32(0))

    def layer(self, x: Any, prefix: str, rotation: tuple[Any, Any]) -> Any:
        """Attention and SwiGLU with their residuals."""
        normed = self.norm(x, f"{prefix}.input_layernorm")
        heads = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        q, k, v = (
            self.split_heads(self.linear(normed, f"{prefix}.self_attn.{part}_proj"), count)
            for part, count in heads.items()
        )
        keys = self.remember(self.rotate(k, rotation), f"{prefix}.key")
        values = self.remember(v, f"{prefix}.value")
        mixed = ops.scaled_dot_product_attention(
            self.rotate(q, rotation), self.share_heads(keys), self.share_heads(values), self.mask(keys)
        )
        joined = ops.reshape(
            ops.transpose(mixed, np.array([0, 2, 1, 3])), np.array([0, 0, self.heads * self.size]), True
        )
        x = ops.add(x, self.linear(joined, f"{prefix}.self_attn.o_proj"))
        normed = self.norm(x, f"{prefix}.post_attention_layernorm")
        gate, up = (self.linear(normed, f"{prefix}.mlp.{part}_proj") for part in ("gate", "up"))
        return ops.add(x, self.linear(ops.multiply(ops.swish(gate), up), f"{prefix}.mlp.down_proj"))

    def model(self) -> ov.Model:
        """All of it."""
        embedding = compressed(self.checkpoint.tensor("model.embed_tokens.weight"), 8)
        x = ops.gather(embedding, self.tokens, np.array(0))
        rotation = self.rotation()
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(x, f"model.layers.{index}", rotation)
        x = ops.gather(self.norm(x, "model.norm"), np.array([-1]), np.array(1))
        head = embedding
        if not self.config["tie_word_embeddings"]:
            head = compressed(self.checkpoint.tensor("lm_head.weight"), 8)
        logits = ops.result(ops.matmul(x, head, False, True), name="logits")
        return ov.Model([logits], self.sinks, [self.tokens, self.positions, self.beams], "llama")


def main() -> None:
    """Arguments: checkpoint folder, file to write (.xml), bits."""
    folder, path, bits = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        sys.exit(f"no graph for model_type {config['model_type']} has been written; llama was expected")
    ov.save_model(Graph(config, Checkpoint.open(folder), bits).model(), path, compress_to_fp16=False)


if __name__ == "__main__":
    main()
