"""What is computed: each network as a function over the ops, with its config and its weight table."""
