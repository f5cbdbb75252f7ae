"""`/v1/files` in memory, as OpenAI means it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.mock.ask import ApiError
from loadgen.mock.multipart import parse_multipart

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_FILE = 200 << 20
_MOST_FILES = 1_000
_MOST_BYTES = 1 << 30


@dataclass(slots=True)
class StoredFile:
    """One file. `created`: seconds since 1970."""

    id: str
    filename: str
    purpose: str
    created: int
    content: bytes

    def as_json(self) -> dict[str, object]:
        """The file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """All files, bounded in number and bytes."""

    def __init__(self, wall: Callable[[], int]) -> None:
        """`wall`: seconds since 1970."""
        self._wall = wall
        self._files: dict[str, StoredFile] = {}
        self._late: dict[str, tuple[int, bytes]] = {}
        self._count = self._bytes = 0

    def upload(self, content_type: str, body: bytes) -> StoredFile:
        """Take an upload.

        Raises:
            ApiError: no file, no purpose, or too much of it.
        """
        try:
            parts = {part.name: part for part in parse_multipart(content_type, body)}
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        file, purpose = parts.get("file"), parts.get("purpose")
        if file is None or file.filename is None:
            raise ApiError(400, "there is no file", param="file")
        if purpose is None or purpose.content != b"batch":
            raise ApiError(400, "the purpose must be batch", param="purpose")
        if len(file.content) > MOST_FILE:
            raise ApiError(413, f"a file has at most {MOST_FILE} bytes", param="file")
        return self.add(file.filename, "batch", file.content)

    def add(self, filename: str, purpose: str, content: bytes) -> StoredFile:
        """Keep a file.

        Raises:
            ApiError: there is no room.
        """
        if len(self._files) >= _MOST_FILES or self._bytes + len(content) > _MOST_BYTES:
            raise ApiError(507, "the mock holds no more files: delete some")
        self._count += 1
        stored = StoredFile(f"file-mock-{self._count:06d}", filename, purpose, self._wall(), content)
        self._files[stored.id] = stored
        self._bytes += len(content)
        return stored

    def append(self, file_id: str, line: bytes) -> None:
        """Make a file longer, which only a fault does."""
        stored = self.get(file_id)
        stored.content += line
        self._bytes += len(line)

    def append_when_read(self, file_id: str, reads: int, line: bytes) -> None:
        """The same as soon as the file's content has been read so often."""
        self._late[file_id] = (reads, line)

    def read(self, file_id: str) -> bytes:
        """A file's content.

        Raises:
            ApiError: there is none.
        """
        content = self.get(file_id).content
        if file_id in self._late:
            reads, line = self._late.pop(file_id)
            if reads <= 1:
                self.append(file_id, line)
            else:
                self._late[file_id] = (reads - 1, line)
        return content

    def get(self, file_id: str) -> StoredFile:
        """A file.

        Raises:
            ApiError: there is none.
        """
        stored = self._files.get(file_id)
        if stored is None:
            raise ApiError(404, f"no such file: {file_id}", param="id")
        return stored

    def delete(self, file_id: str) -> dict[str, object]:
        """Forget a file."""
        self._bytes -= len(self.get(file_id).content)
        del self._files[file_id]
        return {"id": file_id, "object": "file", "deleted": True}

    def list(self) -> dict[str, object]:
        """All of them, newest first."""
        data = [stored.as_json() for stored in reversed(self._files.values())]
        return {"object": "list", "data": data, "has_more": False}
