"""Photos in: from folders, tars, parquet files and the web, one row per item with its outcome."""
