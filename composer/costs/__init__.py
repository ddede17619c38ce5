"""Costs of a spec, counted on the graph that its module is generated from, and the caps on them."""
