"""The vocabulary: what every op means, bit by bit, and the reference that defines it."""
