"""twofold: fast, honest inference for Llama 4 and the Llama 2/3 systems people migrate from."""
