"""What the README promises, as its reader would do it: the default model, curl's request, the official client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest
from support.http import stream_events, text_of
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Server]:
    with Server("serve", "smollm2") as server:
        # The first time on a machine converts the model.
        yield server.wait_ready(timeout=300)


@pytest.fixture(scope="module")
def client(smollm2: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{smollm2.api}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_curls_request_names_paris(smollm2: Server) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "stream": True, "temperature": 0}
    events = stream_events(smollm2.api, "/v1/chat/completions", body)
    assert events[-1] == "[DONE]"
    assert "Paris" in text_of(events)


def test_the_official_client_streams_and_gets_the_same_text_whole(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0)
    assert whole.choices[0].message.content == streamed
    assert "Paris" in streamed
    assert whole.choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_official_client_completes_and_lists(client: openai.OpenAI) -> None:
    done = client.completions.create(model="smollm2", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert done.choices[0].text.strip().startswith("Paris")
    assert [model.id for model in client.models.list()] == ["smollm2"]


def test_the_official_client_raises_the_right_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt"):
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=3)
    assert (caught.value.code, caught.value.param) == ("invalid_request", "temperature")
