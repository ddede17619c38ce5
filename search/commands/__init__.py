"""The commands of search: composer search, composer report."""
