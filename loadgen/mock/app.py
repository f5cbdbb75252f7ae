"""The mock's routes: requests for tokens, texts and ids, files and jobs, and the truth."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from loadgen.errors import BadInput
from loadgen.mock import metrics as words
from loadgen.mock.answer import Answer, Surroundings
from loadgen.mock.ask import ApiError, Ask, Reading, load_json, prompt_ids, read_ask
from loadgen.mock.batches import Batches
from loadgen.mock.driver import Driver
from loadgen.mock.faults import FaultBox, parse_fault
from loadgen.mock.files import Files
from loadgen.mock.fixed import FixedAnswers
from loadgen.mock.render import Renderer
from loadgen.mock.timers import Timers
from loadgen.mock.truth import Truth
from loadgen.mock.work import Emission, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock
    from loadgen.mock.faults import Faults
    from loadgen.mock.http import Reply, Request
    from loadgen.mock.kv import KvEvent
    from loadgen.mock.options import MockOptions

_CONTEXT = 1 << 20
_PAGE = 1_000
_GENERATE = {"/v1/chat/completions": True, "/v1/completions": False}
_RENDER = {f"{path}/render": chat for path, chat in _GENERATE.items()}
_JSON_LINES = b"application/x-ndjson"


class MockApp:
    """Answers everything. All of it runs on one event loop."""

    def __init__(
        self, options: MockOptions, clock: Clock, on_kv_events: Callable[[list[KvEvent]], None] | None = None
    ) -> None:
        self._options, self._clock = options, clock
        self._tokenizer = options.make_tokenizer()
        default = options.shape.tokens if options.mode == "canned" else options.default_tokens
        self._reading = Reading(self._tokenizer, default, options.natural, _CONTEXT)
        self._timers = Timers(clock)
        self._driver = Driver(options.make_engine(), clock, most_waiting=options.max_waiting, on_kv_events=on_kv_events)
        self._around = Surroundings(clock, self._timers, options.tokens_per_chunk, options.reasoning)
        self._faults = FaultBox(options.faults, options.seed)
        self._truth = Truth()
        self._files = Files(_wall)
        self._batches = Batches(self._files, self, self._timers, self._faults, now=clock.now, wall=_wall)
        self._at_once = options.mode == "canned" and options.shape.kind != "paced"
        self._fixed = FixedAnswers(options) if self._at_once and options.text == "fixed" else None
        self._works = 0
        self._simple = self._routes()

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer a request, now or later."""
        path = request.path
        self._truth.routes[f"{request.method} {path}" if path in _KNOWN else "other"] += 1
        try:
            if request.method == "POST" and path in _GENERATE:
                self._generate(request, reply, chat=_GENERATE[path])
            elif path.startswith("/mock/"):
                self._control(request, reply)
            elif path.startswith(("/v1/files", "/v1/batches")):
                self._jobs(request, reply)
            else:
                route = self._simple.get((request.method, path))
                if route is None:
                    raise ApiError(404, f"no such route: {request.method} {path}")
                route(request, reply)
        except ApiError as error:
            reply.error(error.status, error.message, param=error.param, code=error.code)

    def execute(
        self, endpoint: str, body: dict[str, Any], done: Callable[[int, dict[str, Any]], None]
    ) -> Callable[[], None]:
        """Run an item of a job; an `Executor` of `Batches`."""
        try:
            ask = read_ask(body, chat=_GENERATE[endpoint], reading=self._reading)
            work = self._work(ask)
            sink = _Collector(Renderer(ask, work.id), done)
            self._submit(work, sink.take)
        except ApiError as error:
            kind = "invalid_request_error"
            wrong = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
            done(error.status, {"error": wrong})
            return lambda: None
        return lambda: self._driver.cancel(work)

    def close(self) -> None:
        """Stop all that runs."""
        self._driver.close()
        self._timers.close()

    def _generate(self, request: Request, reply: Reply, *, chat: bool) -> None:
        entry = self._truth.begin(request.path, request.received, request.headers, request.body)
        faults = self._faults.for_request()
        entry.fault = faults.text
        status = faults.get("status")
        if status is not None:
            entry.status = status.status
            headers = () if status.retry_after is None else (("retry-after", status.retry_after),)
            reply.error(status.status, "made by a fault", kind="server_error", code="mock_fault", headers=headers)
            entry.hdr = entry.end = self._clock.now()
            return
        if self._fixed is not None and not faults:
            self._fixed.answer(request, reply, entry, chat=chat)
            entry.end = self._clock.now()
            return
        try:
            ask = read_ask(load_json(request.body), chat=chat, reading=self._reading)
        except ApiError as error:
            entry.status, entry.end = error.status, self._clock.now()
            raise
        entry.tokens_in = len(ask.prompt)
        answer = Answer(ask, reply, entry, faults, self._around)
        work = self._work(ask, faults)

        def gone() -> None:
            answer.gone()
            self._driver.cancel(work)

        reply.on_gone = gone
        slow = faults.get("slow_start")
        if slow is None:
            self._begin(work, answer, reply)
        else:
            self._timers.at(request.received + slow.delay, lambda: self._begin(work, answer, reply))

    def _begin(self, work: Work, answer: Answer, reply: Reply) -> None:
        if not reply.is_open:
            return
        try:
            self._submit(work, answer.take)
        except ApiError as error:
            answer.refused(error.status)
            headers = (("retry-after", "1"),) if error.status == _BUSY else ()
            reply.error(error.status, error.message, code=error.code, headers=headers)

    def _submit(self, work: Work, sink: Callable[[Emission], None]) -> None:
        if self._at_once:
            tokens = tuple(work.produce(self._tokenizer.vocab) for _ in range(work.length))
            work.cached = 0
            sink(Emission(work, tokens, work.finish))
            return
        if self._driver.is_full:
            raise ApiError(_BUSY, "the queue is full", code="queue_full")
        why = self._driver.submit(work, sink)
        if why is not None:
            raise ApiError(400, why)

    def _work(self, ask: Ask, faults: Faults | None = None) -> Work:
        self._works += 1
        wrong = None if faults is None else faults.get("wrong_length")
        length = ask.length if wrong is None else max(1, ask.length + wrong.delta)
        return Work(self._works, ask.prompt, length, ask.seed, ask.salt, ask.finish)

    def _routes(self) -> dict[tuple[str, str], Callable[[Request, Reply], None]]:
        model, load = self._options.model, self._driver.engine.load
        answers: dict[str, Callable[[], object]] = {
            "/health": dict,
            "/ready": dict,
            "/version": lambda: {"version": words.VERSION},
            "/v1/models": lambda: words.models(model, _CONTEXT),
            "/server_info": lambda: words.server_info(model, load(), self._options.max_waiting),
            "/model_info": lambda: words.model_info(model),
            "/v1/loads": lambda: words.loads(load(), time.time()),
            "/loads": lambda: words.loads(load(), time.time()),
        }
        routes: dict[tuple[str, str], Callable[[Request, Reply], None]] = {
            ("GET", path): lambda _, reply, make=make: reply.json(200, make())  # type: ignore[misc]
            for path, make in answers.items()
        }
        routes["GET", "/metrics"] = lambda _, reply: reply.send(200, words.metrics(load(), model), words.METRICS_TYPE)
        routes["POST", "/tokenize"] = self._tokenize
        routes["POST", "/detokenize"] = self._detokenize
        routes["POST", "/admin/cache/clear"] = self._clear_cache
        for path, chat in _RENDER.items():
            routes["POST", path] = lambda request, reply, chat=chat: self._say_ids(request, reply, chat=chat)  # type: ignore[misc]
        return routes

    def _clear_cache(self, _: Request, reply: Reply) -> None:
        self._driver.engine.clear_cache()
        reply.json(200, {"cleared": True})

    def _tokenize(self, request: Request, reply: Reply) -> None:
        body = load_json(request.body)
        ids = list(prompt_ids(body, chat="messages" in body, tokenizer=self._tokenizer))
        strings = [self._tokenizer.decode([token]) for token in ids] if body.get("return_token_strs") else None
        reply.json(200, {"count": len(ids), "max_model_len": _CONTEXT, "tokens": ids, "token_strs": strings})

    def _detokenize(self, request: Request, reply: Reply) -> None:
        ids = load_json(request.body).get("tokens")
        vocab = self._tokenizer.vocab
        if not isinstance(ids, list) or not all(type(each) is int and 0 <= each < vocab for each in ids):
            raise ApiError(400, "tokens is a list of ids", param="tokens")
        reply.json(200, {"prompt": self._tokenizer.decode(ids)})

    def _say_ids(self, request: Request, reply: Reply, *, chat: bool) -> None:
        """What a prompt is to the engine; routers that need ids ask here."""
        ask = read_ask(load_json(request.body), chat=chat, reading=self._reading)
        value = {
            "request_id": f"render-mock-{self._truth.routes.total()}",
            "model": ask.model,
            "token_ids": ask.prompt,
            "sampling_params": ask.params,
            "stream": ask.stream,
            "cache_salt": None,
            "priority": 0,
        }
        reply.json(200, value if chat else [value])

    def _jobs(self, request: Request, reply: Reply) -> None:
        """Files and batches."""
        parts = request.path.strip("/").split("/")[1:]
        files, batches = self._files, self._batches
        match (request.method, *parts):
            case ("POST", "files"):
                reply.json(200, files.upload(request.header("content-type") or "", request.body).as_json())
            case ("GET", "files"):
                reply.json(200, files.list())
            case ("GET", "files", file_id):
                reply.json(200, files.get(file_id).as_json())
            case ("GET", "files", file_id, "content"):
                reply.send(200, files.read(file_id), b"application/octet-stream")
            case ("DELETE", "files", file_id):
                reply.json(200, files.delete(file_id))
            case ("POST", "batches"):
                reply.json(200, batches.create(request.body, request.header("idempotency-key")).as_json())
            case ("GET", "batches"):
                reply.json(200, batches.list())
            case ("GET", "batches", batch_id):
                reply.json(200, batches.get(batch_id).as_json())
            case ("POST", "batches", batch_id, "cancel"):
                reply.json(200, batches.cancel(batch_id).as_json())
            case _:
                raise ApiError(404, f"no such route: {request.method} {request.path}")

    def _control(self, request: Request, reply: Reply) -> None:
        """`/mock/...`: for the one who measures, on this host only."""
        if not request.is_loopback:
            raise ApiError(403, "only from this host")
        match (request.method, *request.path.strip("/").split("/")[1:]):
            case ("GET", "truth"):
                since, most = (_whole(request, name, 0) for name in ("since", "limit"))
                lines = [orjson.dumps(entry.as_json()) for entry in self._truth.since(since, most or _PAGE)]
                reply.send(200, b"".join(line + b"\n" for line in lines), _JSON_LINES)
            case ("DELETE", "truth"):
                self._truth.clear()
                reply.json(200, {})
            case ("GET", "routes"):
                reply.json(200, {"routes": dict(self._truth.routes), "dropped": self._truth.dropped})
            case ("GET", "requests", number, "body"):
                body = self._truth.body(int(number)) if number.isdigit() else None
                if body is None:
                    raise ApiError(404, f"no body of request {number}")
                reply.send(200, body, b"application/octet-stream")
            case ("GET", "fault"):
                reply.json(200, {"faults": self._faults.as_json()})
            case ("POST", "fault"):
                self._faults.set(_read_faults(request.body))
                reply.json(200, {"faults": self._faults.as_json()})
            case _:
                raise ApiError(404, f"no such route: {request.method} {request.path}")


_BUSY = 429
_KNOWN = frozenset(
    (
        *_GENERATE,
        *_RENDER,
        *("/health", "/ready", "/version", "/v1/models", "/server_info", "/model_info", "/v1/loads", "/loads"),
        *("/metrics", "/tokenize", "/detokenize", "/admin/cache/clear", "/v1/files", "/v1/batches"),
    )
)
"""Routes that are counted by name; all others, whose names a client may make up, are counted together."""


class _Collector:
    """Gathers an item's tokens."""

    def __init__(self, render: Renderer, done: Callable[[int, dict[str, Any]], None]) -> None:
        self._render, self._done = render, done
        self._tokens: list[int] = []

    def take(self, emission: Emission) -> None:
        self._tokens += emission.tokens
        if emission.finish is not None:
            self._done(200, self._render.whole(self._tokens, emission.work.cached or 0, emission.finish))


def _wall() -> int:
    return int(time.time())


def _whole(request: Request, name: str, default: int) -> int:
    text = request.parameter(name)
    if text is None:
        return default
    if not text.isdigit():
        raise ApiError(400, f"{name} is a whole number", param=name)
    return int(text)


def _read_faults(body: bytes) -> list[Any]:
    texts = load_json(body).get("faults")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "faults is a list of texts; an empty one ends them all", param="faults")
    try:
        return [parse_fault(text) for text in texts]
    except BadInput as error:
        raise ApiError(400, str(error), param="faults") from error
