"""`selftest`: what this host can send cleanly, against a mock of its own."""
