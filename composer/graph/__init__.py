"""The graph of operations a spec stands for, and the passes that turn it into a plan."""
