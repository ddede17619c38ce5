"""Studies: arms trained alike at several budgets and seeds, and what the results say about claims."""
