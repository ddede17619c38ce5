"""Search: candidates of a space are costed first, then trained in rungs; a killed search goes on."""
