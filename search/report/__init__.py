"""The report of a search: one page that works offline, and its figures; read from the folder, at any time."""
