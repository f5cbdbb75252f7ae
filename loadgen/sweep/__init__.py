"""`sweep`: one plan at several rates, and the largest rate at which a condition holds."""
