"""How fast the engine is, always as a ratio measured side by side in one run.

`python -m benchmarks.engine` runs everything that this machine can and prints a table; see `--help`. One figure a file:
`roofline` (steps against the memory's speed), `peers` (servers against each other over HTTP), `speculation`, `foreign`
(beside a busy process), `perplexity`. `machine` says what it ran on and whether others were at work, `figures` keeps
what was measured, `corpus` makes the prompts.
"""
