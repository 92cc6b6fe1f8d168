"""How the demo model that ships with twofold was made."""
