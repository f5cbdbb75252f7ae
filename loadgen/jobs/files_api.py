"""The calls of the Files and Batches API that a job needs, typed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from loadgen.jobs import batch_object
from loadgen.jobs.answer import ApiRefused, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loadgen.jobs.batch_object import BatchObject
    from loadgen.jobs.client import ApiClient

DAY = "24h"
"""The one completion window that every server takes."""


class BatchApi:
    """Over one connection. All methods raise `NoAnswer` and `ApiRefused`."""

    def __init__(self, client: ApiClient, headers: Mapping[str, str]) -> None:
        """`headers`: of the calls that make something."""
        self._client, self._headers = client, dict(headers)

    async def upload(self, file: Path) -> str:
        """The id of the file as the server has it."""
        found = await self._client.upload(file, file.name, self._headers)
        return _text(found, "id")

    async def create(
        self, file_id: str, endpoint: str, window: str, metadata: Mapping[str, str], key: str
    ) -> BatchObject:
        """A batch of an uploaded file. `key`: equal keys with equal bodies make one batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": dict(metadata),
        }
        found = await self._client.json("POST", "/v1/batches", body, {**self._headers, "idempotency-key": key})
        return batch_object.read(found)

    async def get(self, batch_id: str) -> BatchObject:
        """The batch as it is now."""
        return batch_object.read(await self._client.json("GET", f"/v1/batches/{quote(batch_id, safe='')}"))

    async def cancel(self, batch_id: str) -> None:
        """Ask for an end. One that is over already refuses, which is no fault: the next look at it tells."""
        try:
            await self._client.json("POST", f"/v1/batches/{quote(batch_id, safe='')}/cancel")
        except ApiRefused as error:
            if error.may_pass:
                raise

    async def download(self, file_id: str, into: Path) -> int:
        """The content of a file; its bytes."""
        return await self._client.download(file_id, into)

    async def num_bytes(self, file_id: str) -> int:
        """Of a file, as the server tells it."""
        found = await self._client.json("GET", f"/v1/files/{quote(file_id, safe='')}")
        size = found.get("bytes")
        if type(size) is not int:
            raise NoAnswer("the answer is no file: it has no bytes")
        return size

    async def forget(self, file_id: str) -> None:
        """Delete a file of ours, if the server lets us."""
        with suppress(NoAnswer, ApiRefused):
            await self._client.json("DELETE", f"/v1/files/{quote(file_id, safe='')}")

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()


def window_text(micros: int | None) -> str:
    """A job's deadline as a `completion_window`, in the largest unit that holds it exactly."""
    if micros is None or micros == 86_400_000_000:
        return DAY
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros / 1000:g}ms"


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise NoAnswer(f"the answer has no {name}")
    return value
