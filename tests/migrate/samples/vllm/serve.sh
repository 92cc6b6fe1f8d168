#!/usr/bin/env bash
set -euo pipefail
# starts the assistant
export VLLM_API_KEY="$KEY"

vllm serve meta-llama/Llama-3.1-8B-Instruct \
    --served-model-name assistant \
    --max-model-len 16384 \
    --dtype bfloat16 \
    --enable-prefix-caching \
    --enable-auto-tool-choice --tool-call-parser llama3_json \
    --max-num-seqs=32 \
    --port 8000

python -m vllm.entrypoints.openai.api_server --model "$MODEL" --host 127.0.0.1 --tensor-parallel-size 4 --gpu-memory-utilization 0.9
