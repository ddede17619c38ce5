"""The formats of sources, one file each: the `FORMAT` of a file here is one that data are built from."""
