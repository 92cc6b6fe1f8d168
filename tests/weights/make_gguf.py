"""GGUF files for tests: a checkpoint folder written the way llama.cpp's converter does it, with the gguf package.

Weights of the K types, which that package cannot make, are random blocks. `write_gguf` returns what the weights stand
for by the package's own decoder, under the names of the folder, for a folder of float32 that must compute the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize

from twofold.loading import open_model
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.gguf_blocks import BLOCKS, decode
from twofold.weights.gguf_checkpoint import GgufCheckpoint, rows_of
from twofold.weights.gguf_parts import GgufParts

Array = np.ndarray[Any, Any]
KINDS = ("F32", "F16", "BF16", *BLOCKS)
K_KINDS = ("Q4_K", "Q5_K", "Q6_K")
HALVES_AT = {"Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,), "Q6_K": (208,)}
"""Where a block keeps its float16 numbers; the others have two at the beginning."""
CHUNK = FLOOR = 8192


@dataclass(frozen=True)
class Piece:
    """A tensor of the file: values [..., rows, columns] and the weights of the folder they are."""

    name: str
    values: Array
    back: Callable[[Array], dict[str, Array]]
    is_small: bool = False


def random_blocks(kind: str, rows: int, columns: int, seed: int, scale: float = 0.01) -> Array:
    """Rows of random blocks with sane float16 scales, uint8 [rows, bytes]."""
    block = BLOCKS[kind]
    rng = np.random.default_rng(seed)
    count = rows * columns // block.columns
    raw = rng.integers(0, 256, (count, block.size_bytes), dtype=np.uint8)
    for place in HALVES_AT.get(kind, (0, 2)):
        halves = (rng.standard_normal((count, 1)) * scale).astype("<f2")
        raw[:, place : place + 2] = halves.view(np.uint8)
    return raw.reshape(rows, -1)


def encode(values: Array, kind: str, seed: int) -> Array:
    """Values [rows, columns] as the bytes (or numbers) GGUFWriter takes; K types are random blocks instead."""
    if kind in K_KINDS:
        return random_blocks(kind, *values.shape, seed, scale=1e-4 if kind == "Q6_K" else 2e-4)
    return quantize(values.astype(np.float32), GGMLQuantizationType[kind])


def write_gguf(
    folder: Path,
    path: Path,
    kind: str = "F32",
    change: Callable[[GGUFWriter], object] | None = None,
    without: str = "",
    **writer: Any,
) -> dict[str, Array]:
    """Write the checkpoint of a folder; returns its weights as float32, as the file now has them.

    Norms and routers are float32, and so is whatever has rows that are no whole number of blocks. `change` may add
    keys; the tensor `without` is left out; `writer` are settings of GGUFWriter (splitting).
    """
    config = json.loads((folder / "config.json").read_text())
    checkpoint = Checkpoint.open(folder)
    is_llama4 = config["model_type"] == "llama4_text"
    out = GGUFWriter(path, "llama4" if is_llama4 else "llama", **writer)
    add_settings(out, config, is_llama4)
    if (folder / "tokenizer.json").exists():
        add_tokenizer(out, folder)
    if change:
        change(out)
    found: dict[str, Array] = {}
    for number, piece in enumerate(pieces(config, checkpoint, is_llama4)):
        if piece.name == without:
            continue
        columns = piece.values.shape[-1]
        is_plain = piece.is_small or (kind in BLOCKS and columns % BLOCKS[kind].columns)
        own = "F32" if is_plain else kind
        rows = piece.values.reshape(-1, columns)
        stored = np.ascontiguousarray(encode(rows, own, number))
        shape = piece.values.shape[:-1] + stored.shape[-1:]
        out.add_tensor(f"{piece.name}.weight", stored.reshape(shape), raw_dtype=GGMLQuantizationType[own])
        found |= piece.back(dequantize(stored, GGMLQuantizationType[own]).reshape(piece.values.shape))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return found


def add_settings(out: GGUFWriter, config: Mapping[str, Any], is_llama4: bool) -> None:
    """Sizes and constants, under the names llama.cpp's converter gives them."""
    out.add_vocab_size(config["vocab_size"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size_mlp" if is_llama4 else "intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_key_length(config["head_dim"])
    out.add_value_length(config["head_dim"])
    out.add_rope_dimension_count(config["head_dim"])
    out.add_rope_freq_base(rope_of(config)["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if is_llama4:
        out.add_expert_count(config["num_local_experts"])
        out.add_expert_used_count(config["num_experts_per_tok"])
        out.add_expert_feed_forward_length(config["intermediate_size"])
        out.add_interleave_moe_layer_step(config["interleave_moe_layer_step"])
        chunk, floor = config.get("attention_chunk_size", CHUNK), config.get("floor_scale", FLOOR)
        if chunk != CHUNK:
            out.add_sliding_window(chunk or 0)
        if floor != FLOOR:
            out.add_uint32("llama4.attention.temperature_length", floor)


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope settings, however transformers has spelled them."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return {"rope_theta": config.get("rope_theta", 10000.0), **scaling}


def divisors(config: Mapping[str, Any]) -> Array | None:
    """What the frequencies of Llama 3's scaling are divided by, in float32; None where there is no scaling."""
    rope, size = rope_of(config), config["head_dim"]
    if rope.get("rope_type", "default") == "default":
        return None
    low, high, original = (
        rope[name] for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    waves = np.float32(2 * math.pi) * np.float32(rope["rope_theta"]) ** (np.arange(0, size, 2, dtype=np.float32) / size)
    kept = (original / waves - low) / max(high - low, 1e-30)
    between = 1 / ((1 - kept) / rope["factor"] + kept)
    found = np.where(waves < original / high, 1.0, np.where(waves > original / low, rope["factor"], between))
    return found.astype(np.float32)


def interleave(rows_ND: Array, heads: int) -> Array:
    """Rows of a head from halves (i and i + size / 2 turn together) to neighbours (2i and 2i + 1)."""
    count, columns = rows_ND.shape
    return rows_ND.reshape(heads, 2, -1, columns).swapaxes(1, 2).reshape(count, columns)


def halve(rows_ND: Array, heads: int) -> Array:
    """The way back."""
    count, columns = rows_ND.shape
    return rows_ND.reshape(heads, -1, 2, columns).swapaxes(1, 2).reshape(count, columns)


def pieces(config: Mapping[str, Any], checkpoint: Checkpoint, is_llama4: bool) -> Iterator[Piece]:
    """Every tensor of the file in its order."""

    def plain(name: str, source: str, is_small: bool = False) -> Piece:
        values = checkpoint.tensor(source).astype(np.float32)
        return Piece(name, values, lambda found: {source: found}, is_small or values.ndim == 1)

    factors = divisors(config)
    if factors is not None:
        yield Piece("rope_freqs", factors, lambda found: {}, True)
    yield plain("token_embd", "model.embed_tokens.weight")
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"blk.{layer}", f"model.layers.{layer}"
        yield plain(f"{ours}.attn_norm", f"{theirs}.input_layernorm.weight")
        for part in "qkv":
            piece = plain(f"{ours}.attn_{part}", f"{theirs}.self_attn.{part}_proj.weight")
            heads = config["num_attention_heads" if part == "q" else "num_key_value_heads"]
            yield piece if part == "v" or is_llama4 else turned(piece, heads)
        yield plain(f"{ours}.attn_output", f"{theirs}.self_attn.o_proj.weight")
        yield plain(f"{ours}.ffn_norm", f"{theirs}.post_attention_layernorm.weight")
        router = f"{theirs}.feed_forward.router.weight"
        if router in checkpoint.names:
            yield plain(f"{ours}.ffn_gate_inp", router, is_small=True)
            for part in ("gate", "up", "down"):
                yield plain(f"{ours}.ffn_{part}_shexp", f"{theirs}.feed_forward.shared_expert.{part}_proj.weight")
            yield from experts(ours, f"{theirs}.feed_forward.experts", checkpoint)
        else:
            for part in ("gate", "up", "down"):
                name = f"{theirs}.{'feed_forward' if is_llama4 else 'mlp'}.{part}_proj.weight"
                yield plain(f"{ours}.ffn_{part}", name)
    yield plain("output_norm", "model.norm.weight")
    if "lm_head.weight" in checkpoint.names:
        yield plain("output", "lm_head.weight")


def turned(piece: Piece, heads: int) -> Piece:
    """The rows of queries or keys of `llama`."""
    return Piece(
        piece.name,
        interleave(piece.values, heads),
        lambda found: {name: halve(rows, heads) for name, rows in piece.back(found).items()},
    )


def experts(ours: str, theirs: str, checkpoint: Checkpoint) -> Iterator[Piece]:
    """Fused experts, stored [expert, in, out], as three stacks [expert, out, in]; they come back one by one."""
    gate_up = checkpoint.tensor(f"{theirs}.gate_up_proj").astype(np.float32)
    down = checkpoint.tensor(f"{theirs}.down_proj").astype(np.float32)
    width = gate_up.shape[-1] // 2
    stacks = {"gate": gate_up[..., :width], "up": gate_up[..., width:], "down": down}
    for part, values in stacks.items():

        def back(found: Array, part: str = part) -> dict[str, Array]:
            return {f"{theirs}.{index}.{part}_proj.weight": matrix for index, matrix in enumerate(found)}

        yield Piece(f"{ours}.ffn_{part}_exps", values.swapaxes(1, 2), back)


def add_tokenizer(out: GGUFWriter, folder: Path) -> None:
    """The vocabulary of a tokenizer.json, ids and names of its special tokens, and the chat template beside it."""
    state = json.loads((folder / "tokenizer.json").read_text())
    side = folder / "tokenizer_config.json"
    names = json.loads(side.read_text()) if side.exists() else {}
    vocabulary = state["model"]["vocab"]
    added = {token["content"]: token for token in state["added_tokens"]}
    ids = {index: text for text, index in vocabulary.items()} | {token["id"]: text for text, token in added.items()}
    is_bytes = state["decoder"]["type"] == "ByteLevel"
    tokens, types, scores = [], [], []
    for index in range(max(ids) + 1):
        text = ids.get(index, f"[PAD{index}]")
        tokens.append(text)
        types.append(type_of(text, index in ids, added.get(text), is_bytes))
        scores.append(-float(index))
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    out.add_tokenizer_model("gpt2" if is_bytes else "llama")
    out.add_token_list(tokens)
    out.add_token_types(types)
    if is_bytes:
        split = json.dumps(state["pre_tokenizer"])
        out.add_tokenizer_pre("llama4" if "Lu}" in split else "llama-bpe")
        out.add_token_merges([" ".join(merge) for merge in merges])
    else:
        out.add_tokenizer_pre("default")
        out.add_token_scores([-1.0 * merge_rank(text, merges, len(tokens)) for text in tokens])
    for name, add in (("bos", out.add_bos_token_id), ("eos", out.add_eos_token_id), ("unk", out.add_unk_token_id)):
        named = names.get(f"{name}_token")
        text = named.get("content") if isinstance(named, dict) else named
        if text is not None:
            add(tokens.index(text))
    template = folder / "chat_template.jinja"
    if template.exists():
        out.add_chat_template(template.read_text())


def type_of(text: str, is_used: bool, added: Mapping[str, Any] | None, is_bytes: bool) -> TokenType:
    """What kind of token it is."""
    if not is_used:
        return TokenType.UNUSED
    if not is_bytes and text == "<unk>":
        return TokenType.UNKNOWN
    if added is not None:
        return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    return TokenType.BYTE if not is_bytes and text.startswith("<0x") else TokenType.NORMAL


def merge_rank(text: str, merges: list[tuple[str, ...]], last: int) -> int:
    """When a token is first made by a merge, which is what a sentencepiece score says; `last` for characters."""
    return next((rank for rank, merge in enumerate(merges) if "".join(merge) == text), last)


def read_everything(path: Path) -> None:
    """Open a GGUF file and use all of it: every row of every tensor, config, weight table, tokenizer and template.

    What a fuzzer calls: nothing but exceptions of twofold.errors may come out.
    """
    parts = GgufParts(path)
    for name, file in parts.homes.items():
        kind = file.entries[name].kind
        if kind in BLOCKS:
            decode(kind, file.raw(name))
        else:
            file.plain(name).astype(np.float32)
    model = open_model(path)
    assert isinstance(model.store, GgufCheckpoint)
    for name in model.store.names:
        rows = rows_of(model.store.shape(name))
        model.store.rows(name, 0, rows)
        if model.store.format(name) == "group4":
            model.store.codes(name, 0, rows)
    model.files.tokenizer()
    model.files.template(model.architecture.family)
