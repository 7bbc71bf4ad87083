"""Kept crops as a WebDataset with an index, and the reader training uses."""
