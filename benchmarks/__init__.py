"""One file per measured thing; each prints one JSON line last."""
