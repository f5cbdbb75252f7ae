"""`compare`: two servers, one plan, blocks in turn from one client."""
