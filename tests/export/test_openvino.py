"""The portable graph in a second runtime, OpenVINO: prompts and decoding across chunk boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.conftest import Exported
from tests.export.graphs import Loop, engine_of, opened, relative_error
from twofold.export.manifest import GRAPH_NAME, read_manifest
from twofold.export.session import Opened

openvino = pytest.importorskip("openvino", reason="openvino is not installed (pip install openvino)")
pytestmark = pytest.mark.torch

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Without these, OpenVINO takes activations as bfloat16 or int8 where the processor is faster with them."""
OUTPUTS = ("logits", "present", "new_key_values")
PROMPT = [int(token) for token in np.random.default_rng(3).integers(3, 88, 21)]


class Value:
    """An input or output as ONNX Runtime describes one."""

    def __init__(self, port: Any) -> None:
        names = port.get_names()  # an output has the name of the value it comes from too
        self.name = next((name for name in names if name.startswith(OUTPUTS)), port.get_any_name())
        self.type = "tensor(int64)" if port.get_element_type() == openvino.Type.i64 else "tensor(float)"
        self.shape = [dim.get_length() if dim.is_static else "dynamic" for dim in port.partial_shape]
        self.shape[0] = "batch" if self.name != "rows" else "rows"


class Session:
    """A compiled graph behind the three methods of an ONNX Runtime session that a loop needs."""

    def __init__(self, path: Path) -> None:
        self.compiled = openvino.Core().compile_model(path, "CPU", EXACT)

    def get_inputs(self) -> list[Value]:
        return [Value(port) for port in self.compiled.inputs]

    def get_outputs(self) -> list[Value]:
        return [Value(port) for port in self.compiled.outputs]

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.compiled(feeds)
        return [np.array(found[name]) for name in names]


@pytest.mark.parametrize(
    ("name", "dtype"), [("scout", "f32"), ("llama3", "f32"), ("maverick", "f32"), ("demo", "int4"), ("demo", "fp8")]
)
def test_openvino_and_onnx_runtime_agree_through_a_prompt_and_an_answer(
    name: str, dtype: str, exported: Exported
) -> None:
    _, folder = exported(name, "portable", dtype)
    loops = [Loop(Opened(Session(folder / GRAPH_NAME), read_manifest(folder))), Loop(opened(folder))]
    prompt = PROMPT if name != "demo" else np.random.default_rng(4).integers(0, 3000, 250).tolist()
    ids, positions = np.array([prompt]), np.arange(len(prompt))[None]
    for _ in range(12):
        found, expected = (loop.feed(ids, positions, [ids.shape[1] - 1]) for loop in loops)
        assert relative_error(found, expected) < 1e-4
        ids, positions = expected.argmax(axis=-1)[None], positions[:, -1:] + 1


def test_openvino_gives_the_logits_of_the_reference(exported: Exported) -> None:
    checkpoint, folder = exported("scout", "portable")
    loop = Loop(Opened(Session(folder / GRAPH_NAME), read_manifest(folder)))
    found = loop.feed(np.array([PROMPT]), np.arange(21)[None], list(range(21)))
    assert relative_error(found, np.concatenate(list(engine_of(checkpoint).score(PROMPT)))) < 1e-4
