"""Running a search: workers, the loop of each, and imports from other searches."""
