"""The tasks, one file each: a file here with a `DataConfig` in it is a task of the spec language."""
