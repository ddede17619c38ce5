"""The samplers of a search, one file each: a file here with a `SAMPLER` in it is one that spaces can name."""
