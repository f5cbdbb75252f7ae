"""Generates text in this process, without a router. Optional argument: a model, as of `slackwater-worker prepare`."""

import sys

from slackwater import LLM, SamplingParams

with LLM(*sys.argv[1:2]) as llm:
    params = SamplingParams(max_tokens=32, temperature=0.0)
    for completion in llm.generate(["The capital of France is", "The tide comes in"], params):
        print(repr(completion.text), completion.finish_reason)
    for piece in llm.stream("Once upon a time", params):
        print(piece, end="", flush=True)
    print()
