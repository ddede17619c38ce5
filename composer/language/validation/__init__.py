"""From a tree to a validated spec, or to all faults in it, with hints."""
