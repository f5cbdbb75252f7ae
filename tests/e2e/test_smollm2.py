"""What the README promises, as its reader would do it: the default model, curl's request, the official client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import openai
import pytest
from pydantic import BaseModel, Field
from support.http import stream_events, text_of
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

PERSON = [{"role": "user", "content": "Give me a person as JSON with name, age and mood."}]


class Person(BaseModel):
    """What the model is asked for, as users of the official client write it."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    mood: Literal["calm", "rough"]


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


def test_the_official_client_parses_what_its_model_class_says(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(
        model="smollm2", messages=PERSON, response_format=Person, n=3, temperature=1.0, seed=8, max_tokens=200
    )
    people = [choice.message.parsed for choice in done.choices]
    assert [choice.finish_reason for choice in done.choices] == ["stop"] * 3
    assert all(isinstance(person, Person) for person in people)
    assert len({choice.message.content for choice in done.choices}) > 1


def test_the_official_client_streams_a_schema_and_its_logprobs(client: openai.OpenAI) -> None:
    options = {
        "model": "smollm2",
        "messages": PERSON,
        "temperature": 0,
        "max_tokens": 200,
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}},
    }
    whole = client.chat.completions.create(**options).choices[0]
    assert whole.message.content is not None
    Person.model_validate_json(whole.message.content)
    entries, text = [], ""
    for chunk in client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            entries += (choice.logprobs and choice.logprobs.content) or []
    assert text == whole.message.content
    assert whole.logprobs is not None
    assert entries == whole.logprobs.content
    assert "".join(entry.token for entry in entries).startswith(text)


def test_several_prompts_with_several_choices_and_vllms_fields(client: openai.OpenAI) -> None:
    done = client.completions.create(
        model="smollm2",
        prompt=["One, two,", "Red, green,"],
        n=2,
        max_tokens=6,
        temperature=0.8,
        seed=5,
        logprobs=1,
        extra_body={"top_k": 40, "min_p": 0.01, "bad_words": ["seven"], "return_token_ids": True},
    )
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    for choice in done.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == len(choice.model_extra["token_ids"]) == 6
    assert done.usage is not None
    assert done.usage.completion_tokens == 24
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="smollm2", messages=QUESTION, extra_body={"structured_outputs": {"regex": "("}}
        )
    assert (caught.value.code, caught.value.param) == ("grammar_invalid", "structured_outputs")
