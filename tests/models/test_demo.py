"""The shipped checkpoint is an ordinary one: transformers loads it and says the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toys import logits_of
from twofold import LLM
from twofold.demo import model_folder

MESSAGES = [{"role": "user", "content": "Quillmere has 7215 inhabitants.\n\nHow many people live in Quillmere?"}]


@pytest.mark.torch
def test_transformers_loads_the_demo_model_and_agrees() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = LLM("demo", dtype="f32")
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    rendered = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert llm.encode_messages(MESSAGES) == ids
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32, attn_implementation="eager")
    long = [*ids, *llm.encode("word " * 300)][:400]  # across an attention chunk
    expected = logits_of(model, long)
    assert float(np.abs(llm.logits(long) - expected).max() / np.abs(expected).max()) < 1e-4


def test_the_demo_model_copies_the_answer() -> None:
    from twofold import SamplingParams

    llm = LLM("demo")
    greedy = SamplingParams(temperature=0.0, max_tokens=20)
    assert llm.chat(MESSAGES, greedy).text == "It is 7215."
