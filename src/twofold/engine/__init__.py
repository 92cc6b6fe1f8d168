"""Who runs when. The engine knows token ids only, never text."""
