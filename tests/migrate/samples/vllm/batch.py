from vllm import LLM, SamplingParams

llm = LLM(model="meta-llama/Meta-Llama-3-8B-Instruct", max_model_len=8192)
params = SamplingParams(temperature=0.6, max_tokens=256, stop_token_ids=[128001, 128009])
for output in llm.generate(["Hello"], params):
    print(output.outputs[0].text)
