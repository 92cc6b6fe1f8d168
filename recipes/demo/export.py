"""Turns a training state into an ordinary Hugging Face checkpoint, and writes the held-out data beside it.

python -m recipes.demo.export build/demo src/twofold/demo
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from recipes.demo import skills
from recipes.demo.data import qa_conversation
from recipes.demo.facts import UNKNOWN, World, make_facts, passage, question
from recipes.demo.network import Shape

QUESTIONS, QUESTIONS_PER_PASSAGE = 1000, 4
HELDOUT_CONVERSATIONS, HELDOUT_PROSE, PROSE_CHARACTERS = 60, 24, 1500


def config_of(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of the network."""
    return {
        "architectures": ["Llama4ForCausalLM"],
        "attention_bias": False,
        "attention_chunk_size": shape.chunk,
        "attn_scale": shape.scale,
        "attn_temperature_tuning": True,
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "dtype": "bfloat16",
        "eos_token_id": stop_ids(tokenizer),
        "floor_scale": shape.floor,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "interleave_moe_layer_step": 1,
        "intermediate_size": shape.width,
        "intermediate_size_mlp": shape.width,
        "max_position_embeddings": shape.context,
        "model_type": "llama4_text",
        "no_rope_layers": [int(shape.rotates(layer)) for layer in range(shape.layers)],
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": 1,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "num_local_experts": shape.experts,
        "pad_token_id": tokenizer.token_to_id("<|finetune_right_pad|>"),
        "rms_norm_eps": shape.epsilon,
        "rope_parameters": {"rope_theta": shape.theta, "rope_type": "default"},
        "tie_word_embeddings": False,
        "use_qk_norm": True,
        "vocab_size": shape.vocabulary,
    }


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that end an answer."""
    return [tokenizer.token_to_id(f"<|{name}|>") for name in ("end_of_text", "eom", "eot")]


def write_json(path: Path, value: Any) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(run: Path, folder: Path, template: str) -> None:
    """Weights in bfloat16, config, tokenizer, chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    state = torch.load(run / "state.pt", weights_only=True)["network"]
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(run / "tokenizer.json", folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "config.json", config_of(Shape(), tokenizer))
    generation = {"bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"), "eos_token_id": stop_ids(tokenizer)}
    write_json(folder / "generation_config.json", {**generation, "do_sample": True, "temperature": 0.6, "top_p": 0.9})
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>", "pad_token": "<|finetune_right_pad|>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": Shape().context, **named}
    write_json(folder / "tokenizer_config.json", settings)
    (folder / "model.safetensors").chmod(0o644)  # the writer makes it private


def evaluation_questions() -> list[dict[str, Any]]:
    """Held-out questions about passages of 3 to 24 facts, one in eight without an answer."""
    world = World(seed=2026, held_out=True)
    asked: list[dict[str, Any]] = []
    while len(asked) < QUESTIONS:
        facts = make_facts(world, world.random.choice((3, 4, 5, 6, 8, 10, 12, 16, 24)))
        text = passage(world, facts)
        for _ in range(QUESTIONS_PER_PASSAGE):
            words, answer = question(world, facts, unanswerable=world.random.random() < 0.125)
            length = "short text" if len(facts) <= 8 else "long text"
            category = "not in the text" if answer == UNKNOWN else length
            messages = [{"role": "user", "content": f"{text}\n\n{words}"}]
            asked.append({"messages": messages, "answer": answer, "category": category})
    return asked[:QUESTIONS]


def conversations_and_prose(
    seed: int, held_out: bool, conversations: int = HELDOUT_CONVERSATIONS, prose: int = HELDOUT_PROSE
) -> list[dict[str, Any]]:
    """Conversations of every skill and prose, of the half that training has seen or of the other one."""
    world = World(seed=seed, held_out=held_out)
    rows: list[dict[str, Any]] = []
    for _ in range(conversations):
        rows.append({"skill": "qa", "messages": qa_conversation(world, world.random.randrange(3, 16), 4)})
    for skill, make in (("json", skills.json_conversation), ("chat", skills.greeting)):
        rows += [{"skill": skill, "messages": make(world)} for _ in range(conversations // 4)]
    rows += [{"skill": "tools", "messages": skills.tool_conversation(world)} for _ in range(conversations // 4)]
    texts, source = [text for text in skills.prose(held_out) if len(text) > PROSE_CHARACTERS], random.Random(5)
    for _ in range(prose):
        text = source.choice(texts)
        start = source.randrange(len(text) - PROSE_CHARACTERS)
        rows.append({"skill": "prose", "text": text[start : start + PROSE_CHARACTERS]})
    return rows


def calibration_rows() -> list[dict[str, Any]]:
    """What quantisation is calibrated on: the same kinds of text, from the half that training has seen."""
    return conversations_and_prose(1147, False, 2 * HELDOUT_CONVERSATIONS, 4 * HELDOUT_PROSE)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description="Write the checkpoint and its held-out data.")
    parser.add_argument("run", type=Path, help="folder of the training run, with tokenizer.json and state.pt")
    parser.add_argument("output", type=Path, help="the package's demo folder")
    parser.add_argument("--template", type=Path, default=Path("src/twofold/text/templates/llama4.jinja"))
    arguments = parser.parse_args()
    write_checkpoint(arguments.run, arguments.output / "model", arguments.template.read_text(encoding="utf-8"))
    write_lines(arguments.output / "evaluation.jsonl", evaluation_questions())
    write_lines(arguments.output / "heldout.jsonl", conversations_and_prose(4711, held_out=True))
    write_lines(arguments.output / "calibration.jsonl", calibration_rows())


if __name__ == "__main__":
    main()
