"""What the load generator costs and how true its figures are: measured against its own mock.

`scripts/bench loadgen`; each `benchmarks/loadgen_NAME.py` is one part.
"""
