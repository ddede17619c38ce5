"""Which candidate comes next: samplers, evolution, and what is feasible and new."""
