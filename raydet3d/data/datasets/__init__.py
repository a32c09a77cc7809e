"""Data sets, one file each with everything that is its own."""
