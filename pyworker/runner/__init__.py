"""What computes a step: torch and a backend, or the simulator."""
