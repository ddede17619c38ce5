"""The progress of a search and its results: state, events, tables, verdicts, the winner."""
