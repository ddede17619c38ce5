"""Commands that measure or test this machine, one file each."""
