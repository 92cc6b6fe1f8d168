text-generation-launcher --model-id meta-llama/Llama-3.1-8B-Instruct --port 8080 --max-total-tokens 8192 && echo done
