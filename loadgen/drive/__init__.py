"""The load processes: requests go out when they are due, and what comes back is stamped and kept."""
