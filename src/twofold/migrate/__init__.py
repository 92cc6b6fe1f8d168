"""Moving to Llama 4 and twofold: what must change in code and settings, and old and new compared on traffic."""
