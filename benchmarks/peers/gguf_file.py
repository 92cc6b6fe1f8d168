"""A checkpoint as a GGUF file: architectures `llama` and `llama4`, matrices in bfloat16, no vocabulary.

Names, order of dimensions and the row order of query and key follow llama.cpp's own converter. Tensors pass one by one,
so that a network may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.weights.checkpoint import Checkpoint

try:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
except ModuleNotFoundError as missing:
    raise SystemExit(
        "The comparison writes GGUF files with the gguf package, which is not installed. "
        "`make bench-peers` installs what it needs; otherwise: pip install gguf"
    ) from missing

CHUNK = 8192
NOPE_STEP = 4
"""llama.cpp takes both as given for `llama4`."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of the file: where it comes from and how its values are arranged."""

    name: str
    source: str
    shape: tuple[int, ...]
    wide: bool = False
    arrange: Callable[[Array], Array] = lambda values: values


def write_gguf(folder: Path, path: Path) -> None:
    """Write the checkpoint in `folder` to `path`; ValueError for a network llama.cpp has no words for."""
    config = json.loads((folder / "config.json").read_text())
    check(config)
    checkpoint = Checkpoint.open(folder)
    tensors = list(all_tensors(config, checkpoint))
    temporary = path.with_suffix(".partial")
    writer = GGUFWriter(temporary, "llama4" if is_llama4(config) else "llama")
    add_settings(writer, config)
    for tensor in tensors:
        kind = GGMLQuantizationType.F32 if tensor.wide else GGMLQuantizationType.BF16
        item = np.dtype(np.float32 if tensor.wide else np.uint16)
        size = int(np.prod(tensor.shape)) * item.itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, item, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(values_of(checkpoint, tensor))
    writer.close()
    temporary.rename(path)


def is_llama4(config: dict[str, Any]) -> bool:
    """Whether it is a Llama 4 text network; the other kind is `llama`."""
    return bool(config["model_type"] == "llama4_text")


def check(config: dict[str, Any]) -> None:
    """Refuse what this writer would get wrong."""
    if config["model_type"] not in ("llama", "llama4_text"):
        raise ValueError(f"model_type is {config['model_type']!r}; llama or llama4_text was expected")
    if config.get("rope_scaling"):
        raise ValueError("rope_scaling is set; the benchmark networks have none")
    if is_llama4(config):
        wanted = {"attention_chunk_size": CHUNK, "interleave_moe_layer_step": 1, "use_qk_norm": True}
        for name, value in wanted.items():
            if config[name] != value:
                raise ValueError(f"{name} is {config[name]!r}; this writer knows {value!r}")


def add_settings(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Sizes and constants."""
    head_size = config["head_dim"]
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if is_llama4(config):
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_interleave_moe_layer_step(config["interleave_moe_layer_step"])


def all_tensors(config: dict[str, Any], checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Every tensor in the order of the file."""

    def plain(name: str, source: str, wide: bool = False, **more: Any) -> Tensor:
        return Tensor(name=f"{name}.weight", source=source, shape=checkpoint.shape(source), wide=wide, **more)

    yield plain("token_embd", "model.embed_tokens.weight")
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"blk.{layer}", f"model.layers.{layer}"
        yield plain(f"{ours}.attn_norm", f"{theirs}.input_layernorm.weight", wide=True)
        for part in "qkv":
            heads = config["num_attention_heads" if part == "q" else "num_key_value_heads"]
            order = {} if part == "v" or is_llama4(config) else {"arrange": lambda rows, h=heads: interleave(rows, h)}
            yield plain(f"{ours}.attn_{part}", f"{theirs}.self_attn.{part}_proj.weight", **order)
        yield plain(f"{ours}.attn_output", f"{theirs}.self_attn.o_proj.weight")
        yield plain(f"{ours}.ffn_norm", f"{theirs}.post_attention_layernorm.weight", wide=True)
        if is_llama4(config):
            yield plain(f"{ours}.ffn_gate_inp", f"{theirs}.feed_forward.router.weight", wide=True)
            for part in ("gate", "up", "down"):
                yield plain(f"{ours}.ffn_{part}_shexp", f"{theirs}.feed_forward.shared_expert.{part}_proj.weight")
            yield from experts(config, ours, f"{theirs}.feed_forward.experts")
        else:
            for part in ("gate", "up", "down"):
                yield plain(f"{ours}.ffn_{part}", f"{theirs}.mlp.{part}_proj.weight")
    yield plain("output_norm", "model.norm.weight", wide=True)
    if not config["tie_word_embeddings"]:
        yield plain("output", "lm_head.weight")


def experts(config: dict[str, Any], ours: str, theirs: str) -> Iterator[Tensor]:
    """The fused experts of one layer, stored [expert, in, out], as three stacks [expert, out, in]."""
    count, hidden, width = config["num_local_experts"], config["hidden_size"], config["intermediate_size"]

    def stack(part: str, source: str, shape: tuple[int, ...], columns: slice) -> Tensor:
        return Tensor(
            name=f"{ours}.ffn_{part}_exps.weight",
            source=f"{theirs}.{source}",
            shape=(count, *shape),
            arrange=lambda values: values[:, :, columns].swapaxes(1, 2),
        )

    yield stack("gate", "gate_up_proj", (width, hidden), slice(width))
    yield stack("up", "gate_up_proj", (width, hidden), slice(width, None))
    yield stack("down", "down_proj", (hidden, width), slice(None))


def interleave(rows_ND: Array, heads: int) -> Array:
    """Rows of a head from halves (i and i + size / 2 turn together) to neighbours (2i and 2i + 1)."""
    count, columns = rows_ND.shape
    return rows_ND.reshape(heads, 2, count // heads // 2, columns).swapaxes(1, 2).reshape(count, columns)


def values_of(checkpoint: Checkpoint, tensor: Tensor) -> Array:
    """The values to write: float32, or bfloat16 as uint16. Pages of the checkpoint are given back."""
    values = tensor.arrange(checkpoint.tensor(tensor.source))
    assert values.shape == tensor.shape, tensor
    result = values.astype(np.float32) if tensor.wide else np.ascontiguousarray(values.view(np.uint16))
    whole = checkpoint.tensor(tensor.source).nbytes
    result = result.copy() if np.shares_memory(result, checkpoint.tensor(tensor.source)) else result
    checkpoint.file(tensor.source).release(tensor.source, 0, whole)
    return result


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes a step reads: those of every step, and those of all experts together."""

    once_bytes: int
    expert_bytes: int


def read_sizes(path: Path) -> Sizes:
    """Sizes of a GGUF file; of an embedding with a head beside it only a row is read, which is left out."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    expert_bytes = sum(size for name, size in tensors.items() if "_exps." in name)
    return Sizes(once_bytes=sum(tensors.values()) - expert_bytes, expert_bytes=expert_bytes)
