import httpx

body = {"inputs": "Hello", "parameters": {"max_new_tokens": 20, "stop": ["<|eot_id|>"]}}
print(httpx.post("http://tgi:80/generate", json=body).json()["generated_text"])
