"""Generates text in this process, without a router. Optional argument: a model, as of `slackwater-worker prepare`."""

import sys

from slackwater import LLM, SamplingParams

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
with LLM(model) as llm:
    for out in llm.generate(["The tide"], SamplingParams(max_tokens=32, seed=7)):
        print(out.text, out.finish_reason)
    for piece in llm.stream("Once upon a time", SamplingParams(max_tokens=32, temperature=0)):
        print(piece, end="", flush=True)
    print()
