"""Training: one torch-only loop under any runtime."""
