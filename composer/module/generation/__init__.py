"""Text from a model, token by token: earlier tokens are not computed again, but kept as keys and values."""
