"""Exports that ONNX Runtime GenAI drives: Llama 4, which it does not know of itself, and Llama 3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.conftest import Exported
from tests.export.graphs import engine_of
from twofold import LLM
from twofold.errors import SettingsError
from twofold.export.genai import CONFIG_NAME
from twofold.loading import open_model
from twofold.verifying import EngineSide, verify_export

genai = pytest.importorskip("onnxruntime_genai", reason="pip install onnxruntime-genai")

ANSWER = 40
LENGTHS = (37, 21, 3)


def prompts_of(vocabulary: int, lengths: tuple[int, ...]) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(3, vocabulary - 10, length).tolist() for length in lengths]


def unending(folder: Path, answers: list[list[int]], tmp_path: Path) -> Path:
    """The same export with an end of answers that none of these holds."""
    copy = tmp_path / "genai"
    shutil.copytree(folder, copy)
    raw = json.loads((copy / CONFIG_NAME).read_text())
    said = {token for answer in answers for token in answer}
    raw["model"]["eos_token_id"] = [max(set(range(raw["model"]["vocab_size"])) - said)]
    (copy / CONFIG_NAME).write_text(json.dumps(raw))
    return copy


def generate(model: Any, prompts: list[list[int]], pad: int, count: int) -> list[list[int]]:
    longest = max(map(len, prompts))
    params = genai.GeneratorParams(model)
    params.set_search_options(batch_size=len(prompts), max_length=longest + count, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array([row + [pad] * (longest - len(row)) for row in prompts], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [[int(token) for token in generator.get_sequence(index)][longest:] for index in range(len(prompts))]


@pytest.mark.parametrize(
    ("name", "dtype"), [("scout", "f32"), ("maverick", "f32"), ("llama3", "f32"), ("demo", "f32"), ("demo", "bf16")]
)
def test_greedy_answers_to_unequal_prompts_are_those_of_the_reference(
    name: str, dtype: str, exported: Exported, tmp_path: Path
) -> None:
    checkpoint, folder = exported(name, "genai", dtype)
    vocabulary = open_model(checkpoint).architecture.vocabulary
    lengths = tuple(7 * length for length in LENGTHS) if name == "demo" else LENGTHS
    prompts = prompts_of(vocabulary, lengths)
    expected = EngineSide(engine_of(checkpoint, step_tokens=512)).answers(prompts, ANSWER)
    model = genai.Model(str(unending(folder, expected, tmp_path)))
    pad = json.loads((folder / CONFIG_NAME).read_text())["model"]["pad_token_id"]
    assert generate(model, prompts, pad, ANSWER) == expected
    assert generate(model, prompts[:1], pad, ANSWER) == expected[:1]


def test_five_hundred_tokens_across_chunk_boundaries(exported: Exported, tmp_path: Path) -> None:
    checkpoint, folder = exported("demo", "genai")
    prompts = prompts_of(3000, (100,))
    expected = EngineSide(engine_of(checkpoint, step_tokens=128)).answers(prompts, 500)
    model = genai.Model(str(unending(folder, expected, tmp_path)))
    assert generate(model, prompts, 0, 500) == expected


def test_text_goes_in_and_out_with_the_tokenizer_and_template_of_the_folder(exported: Exported) -> None:
    _, folder = exported("demo", "genai")
    tokenizer, own = genai.Tokenizer(genai.Model(str(folder))), open_model("demo").files
    text = "Where does Bramo live? It's 25 o'clock: \u00e9t\u00e9, \u65e5\u672c \U0001f642\n\n  x"
    ids = [int(token) for token in tokenizer.encode(text)]
    assert ids == own.tokenizer().encode(text)
    assert tokenizer.decode(ids) == text
    said = tokenizer.apply_chat_template('[{"role": "user", "content": "Hi"}]', add_generation_prompt=True)
    assert (
        said
        == "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|><|header_start|>assistant<|header_end|>\n\n"
    )


@pytest.mark.parametrize("experts", ["merged", "apart"])
def test_four_bits_are_verified_in_both_forms_of_experts(experts: str, tmp_path: Path) -> None:
    from twofold.exporting import export_model

    folder = export_model("demo", tmp_path / experts, "genai", "int4", merges_experts=experts == "merged")
    found = verify_export(folder, "demo")
    assert found.passed
    assert ("com.microsoft.QMoE" in found.contents.operators) == (experts == "merged")
    assert found.contents.operators["com.microsoft.MatMulNBits"] == 17 + (0 if experts == "merged" else 4 * 8 * 2)


def test_exact_weights_are_verified_to_the_last_answer(exported: Exported) -> None:
    checkpoint, folder = exported("demo", "genai")
    found = verify_export(folder, checkpoint)
    assert found.passed
    assert len(found.checks) == 4


def test_twofold_does_not_drive_it_itself(exported: Exported) -> None:
    _, folder = exported("demo", "genai")
    with pytest.raises(SettingsError, match=r"exported for ONNX Runtime GenAI.*--target onnxruntime"):
        LLM(str(folder))
