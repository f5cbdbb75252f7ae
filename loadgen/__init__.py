"""The load generator of Slackwater: people who wait and jobs that do not, at one server, in one run.

`cli.py` is the program `slackwater-loadgen`; `docs/loadgen.md` is its guide.
"""
