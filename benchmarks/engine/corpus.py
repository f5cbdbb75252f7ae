"""Prompts: stories and questions of the public data folder, or synthetic text of the same lengths, labelled so."""

from __future__ import annotations

import gzip
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

DEFAULT_DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def data_folder(given: str | None) -> Path:
    """The folder named by `--data`, else by SLACKWATER_DATA, else the one beside the tree. It may be absent."""
    return Path(given or os.environ.get("SLACKWATER_DATA") or DEFAULT_DATA)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts by use. `synthetic`: the data folder is absent, and they are made up."""

    stories: list[str]
    copy_heavy: list[str]
    chat: list[str]
    synthetic: bool

    @property
    def label(self) -> str:
        """For the note beside a figure."""
        return "synthetic text, the data folder is absent" if self.synthetic else "public data"


def read_corpus(folder: Path) -> Corpus:
    """Read what the figures need."""
    if not (folder / "squality").is_dir():
        return _synthetic()
    stories = [row["document"] for row in _rows(folder / "squality" / "v1-3_dev.jsonl.gz")]
    questions = list(_rows(folder / "spec-bench" / "question_dev.jsonl.gz"))
    copy_heavy = [row["turns"][0] for row in questions if row["category"] in ("summarization", "rag")]
    meetings = _rows(folder / "qmsum" / "val.jsonl.gz")
    copy_heavy += [_meeting(row) for row in meetings]
    copy_heavy += [_edit(row["prompt"]) for row in _rows(next((folder / "humaneval").glob("*.jsonl*")))]
    chat = [row["turns"][0] for row in _rows(folder / "mt-bench" / "question_dev.jsonl")]
    return Corpus(stories, copy_heavy, chat, synthetic=False)


def token_windows(corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int) -> Iterator[list[int]]:
    """Windows of story text of `length` tokens, no two with the same beginning, without end."""
    rng = random.Random(seed)
    ids = [tokenizer.encode(story, add_special_tokens=False).ids for story in corpus.stories]
    ids = [story for story in ids if len(story) > length]
    seen: set[tuple[int, ...]] = set()
    while True:
        story = rng.choice(ids)
        begin = rng.randrange(len(story) - length)
        window = story[begin : begin + length]
        if (key := tuple(window[:16])) not in seen:
            seen.add(key)
            yield window


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    for line in text.splitlines():
        yield json.loads(line)


def _meeting(row: dict[str, Any]) -> str:
    """The beginning of a meeting, to be summed up; cut so that it fits a small model's context."""
    turns = row["meeting_transcripts"]
    text = "\n".join(f"{turn['speaker']}: {turn['content']}" for turn in turns)
    return f"Summarize the following meeting.\n\n{text[:6000]}"


def _edit(code: str) -> str:
    return f"Rename the first argument of this function to `value`, and give the whole function again.\n\n{code}"


def _synthetic() -> Corpus:
    rng = random.Random(7)
    words = [
        f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "sta", "tri") for b in ("ber", "den", "gal", "son", "tas")
    ]

    def story(count: int) -> str:
        return " ".join(rng.choice(words) for _ in range(count))

    copies = [f"Repeat this text word for word.\n\n{story(150)}" for _ in range(24)]
    return Corpus(
        [story(4000) for _ in range(8)], copies, [f"Write about {story(3)}." for _ in range(24)], synthetic=True
    )
