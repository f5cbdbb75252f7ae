"""Experiments: many runs of one plan, against servers that are started for each, and the tables that they allow."""
