"""The intermediate representation: operations, values, graphs, loops, traceable numbers. Torch-free."""
