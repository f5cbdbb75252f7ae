"""One server that stands in for a model: what it answers can be recomputed, and what it did is on record."""
