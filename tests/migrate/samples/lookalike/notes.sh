#!/bin/sh
# we started it with: vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 8192
echo "first stop vllm serve by hand"
cat <<SYS
hello
SYS
