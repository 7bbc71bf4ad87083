"""The page at the end: what went in, what came out, what it looks like."""
