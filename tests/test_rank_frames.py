"""What ranks tell each other arrives as it was sent."""

from __future__ import annotations

import io
from dataclasses import fields

import numpy as np
import pytest

from twofold.ops.types import Batch, Pages
from twofold.rank_frames import batch_arrays, decode_batch, encode_batch, read_frame, write_frame


def pages(rng: np.random.Generator, tokens: int, sequences: int) -> Pages:
    return Pages(
        slots_T=rng.integers(0, 2**40, tokens),
        blocks_SB=rng.integers(-1, 9, (sequences, 3)).astype(np.int32),
        bases_S=rng.integers(0, 9, sequences).astype(np.int32),
    )


@pytest.mark.parametrize("is_local", [True, False])
def test_a_batch_comes_back_with_its_arrays(is_local: bool) -> None:
    rng = np.random.default_rng(1)
    names = ("tokens_T", "positions_T", "starts_S", "rows_R")
    arrays = {name: rng.integers(0, 99, size).astype(np.int32) for name, size in zip(names, (5, 5, 3, 0), strict=True)}
    batch = Batch(**arrays, global_pages=pages(rng, 5, 2), local_pages=pages(rng, 5, 2) if is_local else None)
    found = decode_batch(encode_batch(batch))
    assert (found.local_pages is None) == (not is_local)
    expected, got = batch_arrays(batch), batch_arrays(found)
    assert expected.keys() == got.keys()
    assert len(got) == 4 + len(fields(Pages)) * (1 + is_local)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert np.array_equal(got[name], array)


def test_frames_follow_one_another_and_end_with_the_stream() -> None:
    stream = io.BytesIO()
    write_frame(stream, "step", b"\n\x00" * 40)
    write_frame(stream, "end")
    whole = stream.getvalue()
    reading = io.BytesIO(whole)
    assert read_frame(reading) == ("step", b"\n\x00" * 40)
    assert read_frame(reading) == ("end", b"")
    assert read_frame(reading) is None
    assert read_frame(io.BytesIO(whole[:5])) is None
    assert read_frame(io.BytesIO(whole[:50])) is None
