"""We used to serve Llama 3 and stopped at <|eot_id|>; 128009 was its id."""

# Llama 3 headers look like <|start_header_id|>user<|end_header_id|>
HELP = "Llama 3 ends a turn with <|eot_id|>, other models with something else."
buffer_size = 8192
order_number = 128009
population = 128256
eot_id = 7
python_tag = "cp311"
text_tokens = len("a text") / 4


def end_header_id(start_header_id):
    """Not a token."""
    return start_header_id + 1
