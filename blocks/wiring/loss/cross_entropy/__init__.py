"""Cross-entropy: operations, references, and the head and its loss by chunks of tokens."""
