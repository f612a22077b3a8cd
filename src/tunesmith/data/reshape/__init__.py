"""Data files into other data files: converted, split, drawn from, augmented; the input is never touched."""
