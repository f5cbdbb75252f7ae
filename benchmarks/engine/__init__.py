"""How fast the engine is, always as a ratio measured side by side in one run.

`make bench-engine` runs everything that this machine can and prints a table; `scripts/bench engine --help` names the
parts. One figure a file: `roofline` (steps against the memory's speed), `peers` (servers over HTTP), `speculation`,
`foreign` (beside a busy process), `perplexity`. `machine` says what it ran on and whether others were at work,
`figures` keeps what was measured, `corpus` makes the prompts.
"""
