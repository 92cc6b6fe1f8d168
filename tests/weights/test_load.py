from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest

from twofold.errors import MissingTensor, OutOfMemory, WrongTensor
from twofold.ops import packed
from twofold.ops.packed import Dense, Format, Int4, Int8, Packed
from twofold.ops.reference import ReferencePacker
from twofold.ops.types import Role, Source, Target
from twofold.weights import load as loading
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.load import load, planned_bytes

from .make import llama_shapes, plain_targets, write_arrays, write_checkpoint

FORMS: tuple[Format, ...] = ("f32", "bf16", "int8", "int4")


def formats(form: Format) -> dict[Role, Format]:
    return dict.fromkeys(get_args(Role), form) | {"norm": "f32", "router": "f32"}


def bits(weight: Packed) -> list[bytes]:
    if isinstance(weight, Dense):
        return [weight.values.tobytes()]
    arrays = [weight.codes, weight.scales] + ([weight.multipliers] if isinstance(weight, Int4) else [])
    return [array.tobytes() for array in arrays]


def whole(rows: np.ndarray[Any, Any], form: Format) -> list[bytes]:
    """Bits of a matrix packed in one call."""
    memory = ReferencePacker().arena(packed.size_bytes(form, rows.shape))
    into = packed.place(form, rows.shape, memory)
    packed.encode(rows, into, 0)
    return bits(into)


def random(seed: int, *shape: int, dtype: Any = ml_dtypes.bfloat16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def joined(name: str, *parts: tuple[str, tuple[int, ...]]) -> Target:
    sources = tuple(Source(name=part, shape=shape) for part, shape in parts)
    shape = (sum(source.rows for source in sources), parts[0][1][-1])
    return Target(name=name, role="attention", shape=shape, sources=(sources,))


def load_one(folder: Path, target: Target, form: Format) -> Packed:
    return load(Checkpoint.open(folder), [target], formats(form), ReferencePacker())[target.name]


# Pieces --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece_bytes", [1, 3000, 2**24])
def test_pieces_that_straddle_sources_equal_one_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format, piece_bytes: int
) -> None:
    monkeypatch.setattr(loading, "PIECE_BYTES", piece_bytes)
    parts = {"q": random(1, 37, 96), "k": random(2, 5, 96), "v": random(3, 3, 96), "w": random(4, 50, 96)}
    write_arrays(tmp_path, parts, shards=2)
    target = joined("qkv", *((name, array.shape) for name, array in parts.items()))
    assert bits(load_one(tmp_path, target, form)) == whole(np.concatenate(list(parts.values())), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece_bytes", [1, 2**24])
def test_transposed_experts_equal_one_encode_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format, piece_bytes: int
) -> None:
    monkeypatch.setattr(loading, "PIECE_BYTES", piece_bytes)
    stack = random(5, 3, 64, 600)
    write_arrays(tmp_path, {"experts": stack})
    weight = load_one(tmp_path, plain_targets({"experts": stack.shape})[0], form)
    for expert in range(3):
        assert bits(packed.matrix(weight, expert)) == whole(stack[expert].T, form)


@pytest.mark.parametrize("dtypes", [("f4", "f2"), (ml_dtypes.bfloat16, "f2"), (ml_dtypes.bfloat16, "f4")])
def test_sources_of_different_dtypes_are_joined_in_float32(tmp_path: Path, dtypes: tuple[Any, Any]) -> None:
    parts = {"a": random(1, 7, 64, dtype=dtypes[0]), "b": random(2, 9, 64, dtype=dtypes[1])}
    write_arrays(tmp_path, parts)
    target = joined("ab", ("a", (7, 64)), ("b", (9, 64)))
    expected = np.concatenate([array.astype(np.float32) for array in parts.values()])
    assert bits(load_one(tmp_path, target, "int8")) == whole(expected, "int8")


def test_a_piece_within_one_source_is_a_view_of_the_file(tmp_path: Path) -> None:
    write_arrays(tmp_path, {"w": random(1, 32, 64)})
    checkpoint = Checkpoint.open(tmp_path)
    rows = loading.gather(checkpoint, [loading.Part(Source(name="w", shape=(32, 64)), 16, 32)])
    assert np.shares_memory(rows, checkpoint.tensor("w"))


def test_data_at_odd_bytes_reaches_the_packer_aligned(tmp_path: Path) -> None:
    from .make import header_bytes, header_for

    values = random(1, 16, 64, dtype=np.float32)
    head = header_bytes(header_for({"w": values.shape}, values.dtype), padding=2)
    while len(head) % 4 == 0:
        head = (len(head) - 8 + 1).to_bytes(8, "little") + head[8:] + b" "
    (tmp_path / "model.safetensors").write_bytes(head + values.tobytes())
    checkpoint = Checkpoint.open(tmp_path)
    assert not checkpoint.tensor("w").flags.aligned
    assert loading.gather(checkpoint, [loading.Part(Source(name="w", shape=(16, 64)), 0, 16)]).flags.aligned
    assert bits(load_one(tmp_path, joined("w", ("w", (16, 64))), "int4")) == whole(values, "int4")


def test_pieces_are_whole_panels_of_moderate_size(tmp_path: Path) -> None:
    shapes = {"wide": (48, 300_000), "tall": (3000, 4096), "experts": (2, 2048, 1000)}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, shapes))
    targets = plain_targets(shapes)
    weights, _ = loading.place_all(targets, formats("int4"), ReferencePacker())
    pieces = list(loading.all_pieces(checkpoint, targets, weights))
    assert all(piece.first_row % packed.PANEL_ROWS == 0 for piece in pieces)
    rows = [sum(part.stop - part.start for part in piece.parts) for piece in pieces]
    assert rows == [16, 16, 16, 2048, 952, 1000, 1000]


# Layouts of checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_fused_and_separate_experts_give_the_same_bits(tmp_path: Path, form: Format) -> None:
    count, hidden, width = 3, 64, 96
    gate_up = random(1, count, hidden, 2 * width)
    write_arrays(tmp_path / "fused", {"gate_up": gate_up})
    separate = {
        f"{e}.{part}": np.ascontiguousarray(half)
        for e in range(count)
        for part, half in zip(("gate", "up"), np.split(gate_up[e].T, 2), strict=True)
    }
    write_arrays(tmp_path / "separate", separate, shards=3)
    shape = (count, 2 * width, hidden)
    fused = Target(
        name="w",
        role="expert",
        shape=shape,
        sources=tuple((Source(name="gate_up", shape=gate_up.shape, expert=e, transposed=True),) for e in range(count)),
    )
    parts = tuple(
        tuple(Source(name=f"{e}.{part}", shape=(width, hidden)) for part in ("gate", "up")) for e in range(count)
    )
    unfused = Target(name="w", role="expert", shape=shape, sources=parts)
    assert bits(load_one(tmp_path / "fused", fused, form)) == bits(load_one(tmp_path / "separate", unfused, form))


@pytest.mark.parametrize("form", FORMS)
def test_shards_and_one_file_give_the_same_bits(tmp_path: Path, form: Format) -> None:
    shapes = llama_shapes(layers=2, hidden=64, width=96, vocabulary=80)
    arrays = {name: random(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    targets = plain_targets(shapes)
    found = []
    for shards in (1, 4):
        checkpoint = Checkpoint.open(write_arrays(tmp_path / str(shards), arrays, shards))
        weights = load(checkpoint, targets, formats(form), ReferencePacker())
        found.append({name: bits(weight) for name, weight in weights.items()})
    assert found[0] == found[1]
    assert list(found[0]) == [target.name for target in targets]


def test_a_norm_is_a_float32_vector(tmp_path: Path) -> None:
    norm = random(1, 40)
    write_arrays(tmp_path, {"norm": norm})
    weight = load_one(tmp_path, plain_targets({"norm": (40,)})[0], "int4")
    assert isinstance(weight, Dense)
    assert weight.values.dtype == np.float32
    assert weight.values.tolist() == norm.astype(np.float32).tolist()


def test_two_targets_may_share_a_source(tmp_path: Path) -> None:
    table = random(1, 32, 64)
    write_arrays(tmp_path, {"embed": table})
    sources = ((Source(name="embed", shape=(32, 64)),),)
    targets = [
        Target(name="embedding", role="embedding", shape=(32, 64), sources=sources),
        Target(name="head", role="head", shape=(32, 64), sources=sources),
    ]
    weights = load(Checkpoint.open(tmp_path), targets, formats("int4") | {"head": "int8"}, ReferencePacker())
    assert bits(weights["embedding"]) == whole(table, "int4")
    assert bits(weights["head"]) == whole(table, "int8")


# The arena -----------------------------------------------------------------------------------------------------------


class CountingPacker(ReferencePacker):
    """Remembers the arenas it gave."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def arena(self, size_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.sizes.append(size_bytes)
        return super().arena(size_bytes)


def test_one_arena_of_the_planned_size_holds_all(tmp_path: Path) -> None:
    shapes = llama_shapes(layers=1, hidden=64, width=96, vocabulary=80)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, shapes))
    packer = CountingPacker()
    weights = load(checkpoint, plain_targets(shapes), formats("int4"), packer)
    assert packer.sizes == [planned_bytes(plain_targets(shapes), formats("int4"))]
    heads = [weight.values if isinstance(weight, Dense) else weight.codes for weight in weights.values()]
    starts = [head.ctypes.data for head in heads]
    assert starts == sorted(starts)
    assert all(start % 64 == 0 for start in starts)
    assert any(isinstance(weight, Int4 | Int8) for weight in weights.values())


def test_nothing_is_allocated_for_a_wrong_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, {"w": (16, 64)}))
    packer = CountingPacker()
    with pytest.raises(MissingTensor):
        load(checkpoint, [joined("v", ("v", (16, 64)))], formats("int8"), packer)
    with pytest.raises(WrongTensor):
        load(checkpoint, [joined("w", ("w", (64, 16)))], formats("int8"), packer)
    assert packer.sizes == []


def test_a_refused_arena_is_out_of_memory(tmp_path: Path) -> None:
    class FullPacker(ReferencePacker):
        def arena(self, size_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
            raise MemoryError

    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, {"w": (16, 64)}))
    with pytest.raises(OutOfMemory, match="4096 bytes"):
        load(checkpoint, [joined("w", ("w", (16, 64)))], formats("f32"), FullPacker())


def test_a_target_listed_twice_is_our_bug(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, {"w": (16, 64)}))
    target = joined("w", ("w", (16, 64)))
    with pytest.raises(AssertionError, match="twice"):
        load(checkpoint, [target, target], formats("int8"), ReferencePacker())


def test_progress_counts_source_bytes_up_to_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PIECE_BYTES", 4096)
    shapes = {"w": (100, 64), "norm": (64,), "experts": (2, 64, 300)}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, shapes))
    heard: list[tuple[int, int]] = []
    load(checkpoint, plain_targets(shapes), formats("bf16"), ReferencePacker(), lambda *pair: heard.append(pair))
    assert {total for _, total in heard} == {checkpoint.size_bytes}
    done = [count for count, _ in heard]
    assert done == sorted(done)
    assert done[-1] == checkpoint.size_bytes
    assert len(done) == 4 + 1 + 2 * 2
