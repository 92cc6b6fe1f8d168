"""Trains the demo model's tokenizer: byte-level BPE with Llama 4's pre-tokenizer and special tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.demo import skills
from recipes.demo.facts import World, make_facts, passage, question

VOCABULARY = 3072
SPECIALS = [
    *("begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix", "header_start", "header_end"),
    *("eom", "eot", "step", "python_start", "python_end", "finetune_right_pad", "image_start", "image_end"),
    *("tile_x_separator", "tile_y_separator", "image", "patch"),
    *("reasoning_thinking_start", "reasoning_thinking_end"),
    *(f"reserved_special_token_{index}" for index in range(11)),
]

LLAMA4_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> list[str]:
    """Text of every skill, in about the proportions of training."""
    world = World(seed=11, held_out=False)
    texts: list[str] = []
    for _ in range(6000):
        facts = make_facts(world, 6)
        texts.append(passage(world, facts) + " ".join(question(world, facts, False)[0] for _ in range(3)))
    for make in (skills.greeting, skills.tool_conversation, skills.json_conversation):
        texts += [message["content"] for _ in range(600) for message in make(world)]
    return texts + [text[:20_000] for text in skills.prose(held_out=False)]


def train() -> Tokenizer:
    """The tokenizer, trained."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA4_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in SPECIALS])
    assert tokenizer.get_vocab_size() == VOCABULARY, tokenizer.get_vocab_size()
    return tokenizer


def main() -> None:
    """Write tokenizer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    train().save(str(output / "tokenizer.json"))


if __name__ == "__main__":
    main()
