"""Guessing tokens so that one step can emit several. Imports no torch and reads no clock.

`proposer` is the noun, `ngram` and `suffix` are two ways to guess, `acceptance` learns how often guesses are right,
`cost` what a step of so many tokens takes, `gate` how many guesses are worth their time, `ledger` stops whoever loses
by it, `speculator` puts them together for the engine, and `rejection` says which guesses were right. The tokens that
come out are those of the run without guesses, bit for bit: what is sampled at a position is a function of the position.
"""
