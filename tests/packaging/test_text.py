"""The router's text handling from Python: each function called once, since stub checks see names and not types."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from slackwater._native.text import Detokenizer, StopMatcher


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    vocab = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_text_never_holds_half_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("né 😀!").ids
    stream = Detokenizer(tokenizer.to_str())
    assert [stream.push([token]) for token in ids] == ["n", "", "é", " ", "", "", "", "😀", "!"]
    assert stream.finish() == ""
    cut_short = stream.fresh(skip_special_tokens=False)
    assert (cut_short.push(ids[:-2]), cut_short.finish()) == ("né ", "\ufffd")


def test_stop_strings_hold_text_back_until_it_is_certain() -> None:
    matcher = StopMatcher(["END", "ab"])
    assert [matcher.push("xEN"), matcher.push("yE")] == [("x", False), ("ENy", False)]
    assert matcher.finish() == "E"
    assert StopMatcher(["ab"]).push("xaby") == ("x", True)
    assert StopMatcher(["ab"], include_stop=True).push("xaby") == ("xab", True)


def test_what_is_no_tokeniser_and_no_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string is empty"):
        StopMatcher(["a", ""])
    with pytest.raises(ValueError, match="Model missing"):
        Detokenizer("{}")
    with pytest.raises((TypeError, OverflowError)):
        StopMatcher(["a"]).push(1)  # type: ignore[arg-type]
