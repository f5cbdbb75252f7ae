"""A model's text side in this process: its tokeniser, its chat template and the router's own way back to text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Never

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from pyworker.errors import InvalidRequest, ModelLoadError
from pyworker.models.hashes import chat_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pyworker.engine.request import SamplingParams
    from slackwater._native.text import Detokenizer, StopMatcher


class TextSide:
    """A model folder's tokeniser and chat template.

    Raises:
        ModelLoadError: a file that is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        from slackwater._native.text import Detokenizer

        path = folder / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
            self._tokenizer = Tokenizer.from_str(text)
            self._detokenizer = Detokenizer(text)
        except (OSError, ValueError) as error:
            raise ModelLoadError(str(path), f"cannot be read: {error}") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = _to_json
        source = chat_template(folder).decode()
        try:
            self._template = environment.from_string(source) if source else None
        except TemplateError as error:
            raise ModelLoadError(str(folder), f"the chat template cannot be read: {error}") from error
        self._special_tokens = _special_tokens(folder)
        self.eos_ids = _eos_ids(folder)
        """The model's end tokens."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with the special tokens that the model puts around it."""
        return list(self._tokenizer.encode(text).ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, with the opening of the assistant's turn.

        Raises:
            InvalidRequest: the model has no template, or its template cannot make a text of these messages.
        """
        if self._template is None:
            raise InvalidRequest("chat_unsupported", "the model has no chat template")
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True, **self._special_tokens)
            text.encode()  # the tokeniser's own words for half a surrogate pair would help nobody
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            # A template computes with what is in the messages, so it fails as such code does.
            raise InvalidRequest("invalid_request", str(error), param="messages") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_part(self, text: str) -> list[int]:
        """Token ids of a text by itself, without special tokens around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_text(self, token: int) -> str:
        """What one token is by itself; the part of a character is U+FFFD."""
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def stream(self, params: SamplingParams) -> tuple[Detokenizer, StopMatcher]:
        """What turns one request's tokens into text."""
        from slackwater._native.text import StopMatcher

        special = {} if params.skip_special_tokens else {"skip_special_tokens": False}
        shown = {"include_stop": True} if params.include_stop_str_in_output else {}
        return self._detokenizer.fresh(**special), StopMatcher(list(params.stop), **shown)


def _eos_ids(folder: Path) -> frozenset[int]:
    """Of `generation_config.json`, else of `config.json`; one number or a list of them."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset([found] if isinstance(found, int) else found)
    return frozenset()


def _special_tokens(folder: Path) -> dict[str, str]:
    """`bos_token` and the like of `tokenizer_config.json`, which templates use."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    named = {name: value for name, value in found.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _raise_exception(message: str) -> Never:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
