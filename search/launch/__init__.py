"""Where the workers of a search or a study run: on this machine, on a Ray cluster, as SLURM jobs."""
