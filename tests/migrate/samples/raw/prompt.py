import requests

SYSTEM = "Be brief."


def build(history, question):
    text = "<|begin_of_text|>"
    text += f"<|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
    for role, content in history:
        text += f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
    text += f"<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
    return text + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def ask(history, question):
    body = {"prompt": build(history, question), "stop": ["<|eot_id|>"], "max_tokens": 200}
    return requests.post("http://llm:8000/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
