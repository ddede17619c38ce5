"""Launchers that `--launcher` can name, one file each."""
