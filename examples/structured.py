"""Has a model fill in a form, in this process. Optional argument: a model, as of `slackwater-worker prepare`.

A server takes the same schema as `response_format`, from the official client too.
"""

import json
import sys

from slackwater import LLM, Grammar, GrammarKind, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "mood": {"enum": ["calm", "rough"]}},
    "required": ["name", "mood"],
    "additionalProperties": False,
}

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
with LLM(model) as llm:
    for seed in range(3):
        params = SamplingParams(max_tokens=100, seed=seed, grammar=grammar)
        question = [{"role": "user", "content": "Invent a sea, as JSON with its name and its mood."}]
        print(json.loads(llm.chat(question, params).text))
