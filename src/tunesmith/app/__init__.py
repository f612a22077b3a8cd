"""Faces without logic: the command line and what it prints. They write recipes and read run folders."""
