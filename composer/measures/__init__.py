"""Cost measures: the numbers that caps, objectives, matching, tables and docs are about."""
