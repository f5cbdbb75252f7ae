"""Every error of the worker that is not a bug. Fields first, for callers to act on; the text is for people."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What `slackwater-worker` exits with. A code is part of the contract with the router and with scripts."""

    OK = 0
    CONFIG = 2
    MODEL = 3
    LINK = 4
    ENGINE_FAILED = 70
    INTEGRITY = 71


class SlackwaterError(Exception):
    """Base of all errors that the worker raises on purpose."""

    exit_code = ExitCode.ENGINE_FAILED


class ConfigError(SlackwaterError):
    """A flag or a combination of flags that cannot work."""

    exit_code = ExitCode.CONFIG

    def __init__(self, flag: str, value: object, allowed: str) -> None:
        self.flag = flag
        self.value = value
        self.allowed = allowed
        super().__init__(f"{flag} {value}: {allowed}")


class ModelLoadError(SlackwaterError):
    """A model that is there but cannot be read."""

    exit_code = ExitCode.MODEL

    def __init__(self, path: str, what: str, *, tensor: str | None = None) -> None:
        self.path = path
        self.what = what
        self.tensor = tensor
        where = f"{path}, tensor {tensor}" if tensor else path
        super().__init__(f"{where}: {what}")


class UnsupportedModel(ModelLoadError):
    """A model that this engine would compute wrongly, and so refuses."""


class ModelNotFound(ModelLoadError):
    """A name or path that leads to no model; the text says what can be had."""


class InvalidRequest(SlackwaterError):
    """A request that no worker with this model would take. Becomes `Refused` with scope `request`."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        self.code = code
        self.message = message
        self.param = param
        super().__init__(message)


class DuplicateAttempt(SlackwaterError):
    """The same attempt of a live request was submitted twice: the one who submits has lost count."""

    def __init__(self, request_id: str, attempt: int) -> None:
        self.request_id = request_id
        self.attempt = attempt
        super().__init__(f"attempt {attempt} of request {request_id} was submitted twice")


class EngineFailed(SlackwaterError):
    """Steps keep failing as a whole, so the fault is not one request's. The process must end."""

    def __init__(self, what: str, window_micros: int) -> None:
        self.what = what
        self.window_micros = window_micros
        super().__init__(f"a second step failed within {window_micros} us: {what}")


class BackendBroken(SlackwaterError):
    """A kernel broke off in the middle: what it was writing is undefined, so no token can be trusted any more."""

    def __init__(self, backend: str, what: str) -> None:
        self.backend = backend
        self.what = what
        super().__init__(f"backend {backend} is broken: {what}")


class IntegrityError(SlackwaterError):
    """The engine's own books do not add up. It must refuse new work and end."""

    exit_code = ExitCode.INTEGRITY

    def __init__(self, what: str, state: dict[str, object]) -> None:
        self.what = what
        self.state = state
        super().__init__(f"{what}: {state}")


class LinkError(SlackwaterError):
    """The link to the router cannot be made or has ended for good."""

    exit_code = ExitCode.LINK

    def __init__(self, endpoint: str, what: str) -> None:
        self.endpoint = endpoint
        self.what = what
        super().__init__(f"{endpoint}: {what}")
