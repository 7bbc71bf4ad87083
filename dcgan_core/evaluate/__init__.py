"""What the discriminator's features are worth."""
