"""Base classes for blocks and wiring options: configs, field types, the builder."""
