def build(system, question):
    return f"<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{question} [/INST]"


MODEL = "meta-llama/Llama-2-13b-chat-hf"
