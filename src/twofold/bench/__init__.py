"""Measuring: quality against a reference, speed against the machine's limits."""
