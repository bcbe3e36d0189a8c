"""Data sets as arrays: read from files, or generated, as their images are stored; normalised batch by batch."""
