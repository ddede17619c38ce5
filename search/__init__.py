"""Search: candidates are costed first, then trained in rungs; a killed search resumes."""
