"""Near-duplicate removal by an autoencoder's semantic hash."""
