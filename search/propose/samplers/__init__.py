"""The samplers, one file each: a file here with a `SAMPLER` in it can be named in spaces."""
