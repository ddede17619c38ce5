"""How things are timed side by side, and the records of it."""
