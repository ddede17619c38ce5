"""Where the time of a training step goes, on named or measured devices."""
