"""How what ships with twofold was made."""
