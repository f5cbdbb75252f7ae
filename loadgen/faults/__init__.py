"""Faults that a run injects on purpose, each of which proves that it happened."""
