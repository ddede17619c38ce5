"""What a task is made of: its config, batches as functions of (seed, step), text as bytes, fingerprints."""
