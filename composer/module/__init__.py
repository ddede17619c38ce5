"""The LightningModule of a spec: emitted code, weights, loops over steps, training hooks."""
