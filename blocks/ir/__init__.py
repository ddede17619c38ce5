"""The intermediate representation: operations, tensor types, graphs, loops, traceable numbers. Torch-free."""
