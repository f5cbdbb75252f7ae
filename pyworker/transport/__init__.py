"""The link to the router."""
