"""The Lightning data module of a spec, and the Trainer options it allows."""
