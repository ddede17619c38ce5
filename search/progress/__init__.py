"""Where a search stands and what it leaves: state, events, tables, verdicts, the winner."""
