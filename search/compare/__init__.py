"""Which of two results is better: rungs, finals, tests."""
