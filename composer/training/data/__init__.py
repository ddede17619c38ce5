"""The Lightning data module of a spec, and what a Trainer may be told with it."""
