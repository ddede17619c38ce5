"""What all cost estimates share: units, bytes per element, a budget of work."""
