"""Which bits each weight gets."""
