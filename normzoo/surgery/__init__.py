"""Change the norms of an existing model."""
