"""What goes into a graph and comes out of it where ONNX Runtime GenAI drives it, and the file that tells it so.

In:
    input_ids          int64 [batch, length]
    attention_mask     int64 [batch, past + length]    0: padding, which comes behind the tokens of a prompt
    past_key_values.N.key, .value   float [batch, KV heads, slots, head size]

Out:
    logits             float [batch, 1, vocabulary]    after the last token of each sequence
    present.N.key, .value           past and new ones

It gives every layer a past of one length, so local layers keep what they no longer see; their scores leave it out.
With GroupQueryAttention the past may be a buffer with room for what is to come, in which new slots are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from twofold.export.inputs import FLOAT, INT64, Inputs
from twofold.export.manifest import GRAPH_NAME
from twofold.weights.write import write_json

if TYPE_CHECKING:
    from twofold.models.network import Architecture

CONFIG_NAME = "genai_config.json"
LONGEST = 4096
"""Most tokens of a prompt and its answer by default: the room of a shared buffer is taken from the first token on."""


class GenaiInputs(Inputs):
    """See Inputs; positions come from the mask, and all layers share one past."""

    def declare(self) -> None:
        """input_ids and attention_mask; a token's position is how many tokens its mask has in front of it."""
        graph = self.graph
        self.ids = graph.input("input_ids", INT64, ["batch", "length"])
        self._mask = graph.input("attention_mask", INT64, ["batch", "total"])
        counted = graph.node("CumSum", self._mask, graph.constant(np.array(1, np.int64)))
        none = graph.constant(np.int64(-1))
        real = graph.node("Cast", self._mask, to=TensorProto.BOOL)
        self._all = graph.node("Where", real, graph.node("Add", counted, none), none)
        self._size = graph.node("Shape", self.ids)
        length = graph.node("Gather", self._size, graph.integers(1))
        end = graph.integers(np.iinfo(np.int64).max)
        self.positions = graph.node("Slice", self._all, graph.node("Neg", length), end, graph.integers(1))
        self.rows = self.last_rows()

    def last_rows(self) -> str:
        """Where among all tokens the last one of each sequence is, [batch]."""
        graph = self.graph
        last = graph.node("ArgMax", self.positions, axis=1, keepdims=0)
        zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
        batch, length = (graph.node("Gather", self._size, at) for at in (zero, one))
        sequences = graph.node("Range", zero, batch, one)
        return graph.node("Add", graph.node("Mul", sequences, length), last)

    def joined_positions(self, chunk: int | None) -> str:
        """Positions of all slots there are, as the mask has them."""
        return self._all

    def dims(self, slots: str) -> Sequence[int | str]:
        """Local layers keep as much as global ones."""
        return super().dims({"local": "past", "local_present": "present"}.get(slots, slots))

    def present(self, index: int, chunk: int | None, present: Sequence[str]) -> None:
        """Make keys and values outputs, whole."""
        super().present(index, None, present)

    def finish(self, logits_RV: str, vocabulary: int) -> None:
        """Logits with an axis for tokens, of which there is one."""
        apart = self.graph.node("Unsqueeze", logits_RV, self.graph.integers(1))
        self.graph.output(apart, "logits", FLOAT, ["batch", 1, vocabulary])


def write_config(architecture: Architecture, is_packed: bool, stops: Sequence[int], pad: int, folder: Path) -> None:
    """Write genai_config.json. stops: ids that end an answer; pad: the id that stands behind shorter prompts.

    is_packed: attention writes new keys and values into the buffer of the past.
    """
    config, shape = architecture.config, architecture.cache_shape
    decoder: dict[str, Any] = {
        "session_options": {"log_id": "twofold", "provider_options": []},
        "filename": GRAPH_NAME,
        "head_size": shape.head_size,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": len(shape.chunks),
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "vocab_size": architecture.vocabulary,
        "context_length": architecture.context,
        "pad_token_id": pad,
        "eos_token_id": list(stops),
        "decoder": decoder,
    }
    search = {
        "max_length": min(LONGEST, architecture.context),
        "past_present_share_buffer": is_packed,
        "do_sample": False,
    }
    write_json(folder / CONFIG_NAME, {"model": model, "search": search})
