#!/bin/sh
ollama pull llama3.1:8b
ollama create assistant -f Modelfile
OLLAMA_CONTEXT_LENGTH=8192 ollama serve
