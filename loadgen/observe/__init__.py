"""What is seen of a run while it goes on: the server's counters, the host, and the live view. Runs in the parent."""
