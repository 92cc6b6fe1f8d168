"""Answers a question with Llama 3; turns end with <|eot_id|>."""

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
vocab_size = 128256
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = "<|finetune_right_pad_id|>"
model = LlamaForCausalLM.from_pretrained(MODEL, torch_dtype=torch.bfloat16)
terminators = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")]


def answer(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    out = model.generate(ids, eos_token_id=[128001, 128_009], pad_token_id=128004, max_new_tokens=256)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
