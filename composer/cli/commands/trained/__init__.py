"""Commands on trained models: what they score, and what is inside them."""
