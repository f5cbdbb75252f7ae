"""Makes the plan of a run. Pure: seed and time are arguments."""
