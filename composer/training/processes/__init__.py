"""The processes of a run: ranks, signals, threads, memory."""
