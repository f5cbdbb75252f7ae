"""The scheduling half of the engine. Imports no torch and reads no clock.

In reading order: `request` and `outputs` are the nouns, `interface` the walls, `config` the limits, `policies` what may
be given to decide with, `validation` what is refused. `scheduler` says who gets how many tokens, with the help of
`queue` (the order of waiting), `entrance` (what need not be computed, `groups` among it), `admission` (who may take
blocks), `yielding` (who gives them up), `budget` (chunks), `parking` (rows that left in the middle), `drafts` and
`outcome` (what a result means). `metrics` are the counters, `core` is the step.
"""
