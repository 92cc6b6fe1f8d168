START, END = "<|im_start|>", "<|im_end|>"
STOPS = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>"]
prompt = f"{START}user\nHello{END}\n"
eos_token_id = [151645, 128009]
