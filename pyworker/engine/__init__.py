"""The scheduling half of the engine. Imports no torch and reads no clock.

In reading order: `request` and `outputs` are the nouns, `interface` the walls, `config` the limits, `validation` what
is refused, `queue` the order of waiting, `scheduler` who gets how many tokens, `metrics` the counters, `core` the step.
"""
