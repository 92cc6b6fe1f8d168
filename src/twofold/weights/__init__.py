"""Checkpoints in: find the files, check them, read them, pack them."""
