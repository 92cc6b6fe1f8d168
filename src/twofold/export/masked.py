"""A genai graph driven as ONNX Runtime GenAI drives it: a mask in place of positions, the whole past of every layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twofold.export.session import Opened
from twofold.ops.packed import AnyArray, Floats


class Masked:
    """One batch of sequences, from its prompts on; several of them take more than a token at once only at first."""

    def __init__(self, opened: Opened, sequences: int) -> None:
        manifest = opened.manifest
        self.opened = opened
        self._layers = [f"{index}.{kind}" for index in range(len(manifest.chunks)) for kind in ("key", "value")]
        self._mask = np.empty((sequences, 0), np.int64)
        empty = np.empty((sequences, manifest.kv_heads, 0, manifest.head_size), np.float32)
        self._past: list[AnyArray] = [empty] * len(self._layers)

    def feed(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Logits [B, V] after the last token of each row; shorter rows are filled up behind their tokens."""
        lengths = np.array([len(row) for row in rows])
        places_BL = np.broadcast_to(np.arange(lengths.max()), (len(rows), lengths.max()))
        real_BL = places_BL < lengths[:, None]
        ids_BL = np.zeros(real_BL.shape, np.int64)
        ids_BL[real_BL] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        self._mask = np.concatenate([self._mask, real_BL.astype(np.int64)], axis=1)
        feeds: dict[str, AnyArray] = {"input_ids": ids_BL, "attention_mask": self._mask}
        feeds |= {f"past_key_values.{name}": past for name, past in zip(self._layers, self._past, strict=True)}
        logits_B1V, *self._past = self.opened.run(["logits", *(f"present.{name}" for name in self._layers)], feeds)
        result: Floats = logits_B1V[:, 0]
        return result


class MaskedSide:
    """See verifying.Side."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def score(self, ids: Sequence[int], step: int) -> tuple[list[int], Floats]:
        """The graph gives logits after the last token only, so of every step there is one row."""
        loop = Masked(self.opened, 1)
        starts = range(0, len(ids), step)
        rows = [loop.feed([ids[start : start + step]])[0] for start in starts]
        return [min(start + step, len(ids)) - 1 for start in starts], np.stack(rows)

    def answers(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Greedy answers to prompts that run together."""
        loop = Masked(self.opened, len(prompts))
        found = [loop.feed(prompts).argmax(axis=-1)]
        while len(found) < count:
            found.append(loop.feed(found[-1][:, None].tolist()).argmax(axis=-1))
        answers: list[list[int]] = np.stack(found, axis=1).tolist()
        return answers
