"""Crops out of photos: faces found by a detector, or centre squares."""
