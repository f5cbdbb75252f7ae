"""Messages and frames between router and worker."""
