"""Output that must match a grammar: a JSON schema, a regular expression, a choice, a grammar of one's own.

`grammars` translates what was asked for, `compiler` compiles it beside the engine's thread and keeps what was compiled,
`guide` follows each request's output and says which tokens may come next. The engine behind it is llguidance.
"""
