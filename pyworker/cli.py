"""The program `slackwater-worker`: one engine behind a router, and the tools that prepare its model.

Every error that is not a bug is one line on stderr and an exit code of `ExitCode`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

from pyworker.errors import ConfigError, ExitCode, SlackwaterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyworker.config import Options
    from pyworker.worker import Worker

_PROGRAM: Final = "slackwater-worker"
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_STDIN: Final = 0
_ORPHAN_SECONDS: Final = 1.0
"""How long a worker whose router is gone may take to end in order."""

_SWITCH_SECONDS: Final = 0.0001
"""How long a thread may keep the interpreter while another one waits for it."""

_logger = logging.getLogger("pyworker")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    tools = {"prepare": _prepare, "export": _export}
    try:
        run = tools.get(args[0]) if args else None
        if run is not None:
            run(args[1:])
        else:
            _serve(args)
    except SlackwaterError as error:
        print(f"{_PROGRAM}: error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as bug:
        _logger.exception("the worker failed")
        raise SystemExit(ExitCode.ENGINE_FAILED) from bug
    return ExitCode.OK


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as for any other error."""

    def error(self, message: str) -> Never:
        self.exit(ExitCode.CONFIG, f"{_PROGRAM}: error: {message}\n")


def _prepare(args: list[str]) -> None:
    parser = _Parser(prog=f"{_PROGRAM} prepare", description="Make a model ready and print its name and folder.")
    parser.add_argument("model", metavar="MODEL", help="smollm2, tiny, a model folder or a GGUF file")
    model = parser.parse_args(args).model
    from pyworker.models.prepare import prepare

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    prepared = prepare(model)
    print(json.dumps({"name": prepared.name, "model_dir": str(prepared.model_dir)}), flush=True)


def _export(args: list[str]) -> None:
    parser = _Parser(prog=f"{_PROGRAM} export", description="Write a built-in model as a folder.")
    from pyworker.models import tiny
    from pyworker.models.whole_folder import fill_folder

    names = tuple(tiny.TINY_MODELS)
    parser.add_argument("model", metavar="MODEL", choices=names, help=", ".join(names))
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder that does not exist yet, or is empty")
    parsed = parser.parse_args(args)
    fill_folder(parsed.folder, lambda folder: tiny.write_tiny(folder, tiny.TINY_MODELS[parsed.model]))


def _serve(args: list[str]) -> None:
    parsed = _worker_parser().parse_args(args)
    # Else the link's thread may wait 5 ms for the interpreter each time that the engine's thread computes in it.
    sys.setswitchinterval(_SWITCH_SECONDS)
    stop = _StopOnSignals()
    from pyworker.config import Options, build_engine
    from pyworker.models.prepare import prepare
    from pyworker.transport.launch import is_launched, read_launch, resolve_endpoint, resolve_token, watch_end
    from pyworker.worker import Worker

    options = Options(**{declared.name: getattr(parsed, declared.name) for declared in fields(Options)})
    logging.basicConfig(
        level=parsed.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if is_launched():
        if parsed.router is not None or parsed.token_file is not None:
            raise ConfigError("--router, --token-file", parsed.router or parsed.token_file, "the router says this")
        launch = read_launch(_STDIN)
        end = _OrphanEnd()
        watch_end(_STDIN, end)
        endpoint, tokens = resolve_endpoint(launch.endpoint), resolve_token(launch.endpoint, launch.token)
    else:
        end = None
        endpoint = resolve_endpoint(parsed.router)
        tokens = resolve_token(endpoint, None, parsed.token_file)
    _logger.debug("loading %s", parsed.model)
    engine = build_engine(prepare(parsed.model), options)
    with Worker(engine=engine, router=endpoint, token=tokens) as worker:
        if end is not None:
            end.abandon(worker)
        stop.serve(worker)
        _logger.info("%s is loaded; joining %s", worker.capabilities.model_name, endpoint)
        worker.run()


class _OrphanEnd:
    """Ends the process when its router is gone: in order if that is quick, else at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._over = False

    def abandon(self, worker: Worker) -> None:
        """The worker that is to be ended, from now on."""
        with self._lock:
            self._worker = worker
            if self._over:
                worker.abandon()

    def __call__(self) -> None:
        with self._lock:
            self._over = True
            if self._worker is not None:
                self._worker.abandon()
        threading.Event().wait(_ORPHAN_SECONDS)
        # This thread is a daemon: it gets here only where the engine or a load is still at it.
        os._exit(ExitCode.OK)


class _StopOnSignals:
    """From now on SIGTERM and SIGINT end the process in order: a load by leaving it, a worker by a drain."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._over = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def serve(self, worker: Worker) -> None:
        """The worker that is to be stopped, from now on."""
        self._worker = worker
        if self._over:
            # The exit was raised where Python throws exceptions away, as in a finaliser.
            raise SystemExit(ExitCode.OK)

    def _stop(self, number: int, frame: object) -> None:
        del number, frame
        self._over = True
        if self._worker is None:
            raise SystemExit(ExitCode.OK)
        self._worker.stop()


def _worker_parser() -> argparse.ArgumentParser:
    from pyworker.config import Options

    parser = _Parser(
        prog=_PROGRAM,
        description="One worker of a running router.",
        epilog=f"Also: {_PROGRAM} prepare MODEL; {_PROGRAM} export tiny DIR.",
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", default="smollm2", metavar="MODEL", help="as of prepare; default: smollm2")
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {_version()}")
    parser.add_argument("--router", metavar="ENDPOINT", help="the router's worker socket; default: its own default")
    parser.add_argument("--token-file", type=Path, metavar="PATH", help="default: worker.token beside the socket")
    parser.add_argument("--log-level", choices=_LOG_LEVELS, default="info", help="what is worth a line on stderr")
    _add_options(parser, Options)
    return parser


def _add_options(parser: argparse.ArgumentParser, options: type[Options]) -> None:
    from pyworker.config import flag_of

    readers: dict[str, Callable[[str], object]] = {"str": str, "tuple[int, int]": _pair}
    for declared in fields(options):
        flag, text = flag_of(declared.name), declared.metadata["help"]
        if declared.type == "bool":
            action = "store_false" if declared.default else "store_true"
            parser.add_argument(flag, dest=declared.name, action=action, default=declared.default, help=text)
        else:
            reader = readers.get(str(declared.type), int)
            metavar = declared.metadata["metavar"] or declared.name.rpartition("_")[2].upper()
            parser.add_argument(flag, type=reader, default=declared.default, metavar=metavar, help=text)


def _pair(text: str) -> tuple[int, int]:
    base, _, slope = text.partition(",")
    try:
        return int(base), int(slope)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers with a comma between them") from error


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("slackwater")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
