"""The graph of a spec's operations, and the passes that turn it into a plan."""
