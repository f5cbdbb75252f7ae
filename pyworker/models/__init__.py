"""Model families, and what finds, converts and loads a model."""
