"""One run, from a scenario to its folder: look at the target, plan, send, and judge."""
