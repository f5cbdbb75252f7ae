"""One module a command; `cli.py` imports the one that is asked for."""
