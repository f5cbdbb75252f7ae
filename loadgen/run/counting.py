"""Words that are one token each, and counts of whole texts: by the server, by a file, or unchecked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadData, BadInput, Unreachable
from loadgen.plan.candidates import CANDIDATES
from loadgen.plan.text import single_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.run.discover import Target
    from loadgen.run.server import Server
    from loadgen.spec import Scenario


@dataclass(frozen=True, slots=True)
class Counting:
    """`name`: `server`, `words` or the file, as it stands in the result. `count`: tokens of a text, None where nobody
    counts. `checked`: the words are known to be one token each.
    """

    name: str
    words: tuple[str, ...]
    count: Callable[[str], int] | None

    @property
    def checked(self) -> bool:
        """Whether prompts have as many tokens as the plan says."""
        return self.name != "words"


def counting(scenario: Scenario, target: Target, server: Server) -> Counting:
    """By `--tokenizer`, or by the server where it can.

    Raises:
        BadInput: too few words are one token each, the server does not tokenise, or the package is missing.
        BadData: a file that is no tokeniser.
    """
    asked = scenario.tokenizer
    if asked is None:
        asked = "server" if target.can_tokenize else "words"
    if asked == "words":
        return Counting("words", CANDIDATES, None)
    if asked == "server":
        if not target.can_tokenize:
            raise BadInput("--tokenizer", "", "server", "the server has no POST /tokenize; try words, or a file")
        count = _of_server(server, target.model)
        return Counting("server", single_tokens(CANDIDATES, lambda texts: [count(text) for text in texts]), None)
    count = _of_file(Path(asked))
    return Counting(asked, single_tokens(CANDIDATES, lambda texts: [count(text) for text in texts]), count)


def _of_server(server: Server, model: str) -> Callable[[str], int]:
    def count(text: str) -> int:
        reply = server.call("POST", "/tokenize", {"model": model, "prompt": text, "add_special_tokens": False})
        found = reply.json.get("count") if isinstance(reply.json, dict) else None
        if reply.status != 200 or not isinstance(found, int):
            raise Unreachable(server.base_url, f"POST /tokenize answered {reply.status}")
        return found

    return count


def _of_file(path: Path) -> Callable[[str], int]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BadInput("--tokenizer", "", str(path), "needs tokenizers: pip install 'slackwater[tokenizer]'") from error
    try:
        found = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(str(path), 0, "", error.strerror or "cannot be read") from error
    except Exception as error:  # the package raises nothing narrower
        raise BadData(str(path), 0, "", f"no tokeniser: {error}") from error
    return lambda text: len(found.encode(text, add_special_tokens=False).ids)
