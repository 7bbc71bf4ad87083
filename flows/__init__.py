"""What runs after what: one Prefect flow per stage, and the whole pipeline."""
