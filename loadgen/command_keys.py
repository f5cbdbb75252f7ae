"""The flags of each command beside those of a run, from the same kind of table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadgen import forms, keys_run, slo_text, texts, units
from loadgen.keys import Key, choice, switch, table, whole
from loadgen.keys_source import TRANSFORM_KEYS
from loadgen.measure import expr
from loadgen.options import Vary
from loadgen.spec import Slo, SourceSpec
from loadgen.target import base_url, is_loopback

if TYPE_CHECKING:
    from loadgen.mock.canned import Shape
    from loadgen.mock.faults import Fault
    from loadgen.units import Dist


def _there(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _names(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise ValueError("expected names with commas between")
    return found


def _a_rate(text: str) -> float:
    return forms.positive_rate(text if "/" in text else f"{text}/s")


def vary(text: str) -> Vary:
    """`CLASS.rate=LO..HI` or `CLASS.rate=a,b,c`; rates with or without `/s`."""
    what, equals, given = text.partition("=")
    cls, _, key = what.partition(".")
    if not equals or key != "rate":
        raise ValueError("expected CLASS.rate=LO..HI or CLASS.rate=a,b,c")
    low, dots, high = given.partition("..")
    if not dots:
        return Vary(forms.name(cls), values=tuple(_a_rate(part) for part in given.split(",")))
    found = Vary(forms.name(cls), low=_a_rate(low), high=_a_rate(high))
    if found.low >= found.high:
        raise ValueError("the second rate must be above the first")
    return found


def _metrics(text: str) -> tuple[expr.Figure, ...]:
    return tuple(expr.parse_figure(part) for part in text.split(","))


def _find(text: str) -> expr.Expr:
    return expr.parse(text, "--find")


def _class_slo(text: str) -> tuple[str, Slo]:
    cls, colon, slo = text.partition(":")
    if not colon:
        raise ValueError("expected CLASS:SLO, such as chat:ttft<=1s")
    return forms.name(cls), slo_text.parse(slo)


def _tolerance(text: str) -> float:
    found = units.share(text)
    if found <= 0:
        raise ValueError("must be above zero")
    return found


def _counts(text: str) -> tuple[int, ...]:
    return tuple(forms.count(part) for part in text.split(","))


def _capacity(text: str) -> tuple[float, float]:
    prefill, comma, decode = text.partition(",")
    if not comma:
        raise ValueError("expected PREFILL,DECODE in tokens a second, such as 8000,2000")
    return forms.factor(prefill), forms.factor(decode)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError("expected K=V")
    return key, value


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:0")
    if not is_loopback(host):
        # What it was asked can be read back from it by anyone.
        raise ValueError("the mock listens on this machine only")
    return host, int(port)


def inspected(text: str) -> SourceSpec:
    """A source, or a bare file whose content tells its kind."""
    kind = text.partition(":")[0]
    return forms.source(text) if forms.NAME.fullmatch(kind) and ":" in text else SourceSpec("", (text,))


def _times(text: str) -> Dist:
    return units.dist(text, "duration")


def _fault(text: str) -> Fault:
    from loadgen.mock.faults import parse_fault

    return parse_fault(text)


def _shape(text: str) -> Shape:
    from loadgen.mock.canned import parse_shape

    return parse_shape(text)


_OUT: Final = Key("out", _there, "results go here", "a new folder under runs/", "DIR")
_UI: Final = choice("ui", ("rich", "plain", "json", "none"), "live view", "rich at a terminal, else plain")
_DRY: Final = switch("dry-run", "print the plan, send nothing")
_DATA: Final = keys_run.KEYS["data"]

RUN: Final = table(_OUT, _UI, _DRY)
SWEEP: Final = table(
    Key("vary", vary, "what is varied", form="CLASS.rate=LO..HI|CLASS.rate=a,b,c"),
    Key("points", whole(2, 1000), "of a range", "8", "N"),
    Key("find", _find, "largest rate at which this holds", form="EXPR"),
    Key("tolerance", _tolerance, "of the rate found", "5%", "SHARE", texts.decimal),
    Key("confirm", whole(0, 100), "fresh seeds that confirm it", "3", "N"),
    choice("with-offline", ("on", "off", "both"), "beside the jobs, without, or both", "on"),
    *RUN.values(),
)
COMPARE: Final = table(
    Key("a", base_url, "one side", form="URL"),
    Key("b", base_url, "the other", form="URL"),
    *(Key(f"{side}-{way}", _there, f"{way} with {side}", form="CMD") for side in "ab" for way in ("up", "down")),
    choice("idle", ("leave", "freeze", "stop"), "what the side at rest does", "leave"),
    Key("block", forms.positive_duration, "length of a block", "60s", "D", texts.duration),
    Key("pairs", whole(1, 1000), "pairs of blocks", "10", "N"),
    choice("order", ("abba", "random"), "of the blocks", "abba"),
    Key("metric", _metrics, "what is compared, commas between", form="FIGURE,..."),
    *RUN.values(),
)
EXPERIMENT: Final = table(
    Key("runs", _names, "only these", form="E1,E3"),
    Key("arms", _names, "only these", form="A0,A6"),
    Key("windows", whole(1, 100), "of the trace", "the plan's", "N"),
    Key("repeats", whole(1, 100), "of each window", "the plan's", "N"),
    _DATA,
    switch("quick", "15 minutes, marked so, outside the tables"),
    switch("resume", "go on in --out"),
    switch("virtual", "simulate, marked so"),
    switch("dry-run", "print the runs and the hours"),
    switch("list", "print runs and arms of the plan"),
    Key("set", _pair, "a value of the plan", form="K=V", many=True),
    Key("out", _there, "results go here", form="DIR"),
)
GEN_RUN: Final = ("probe", "duration", "max-duration", "warmup", "seed", "max-requests", "data", "tokenizer")
GEN: Final = table(Key("output", _there, "the plan, also as -o", form="FILE"))
INSPECT: Final = table(
    Key("cache-blocks", _counts, "ideal hits with caches of so many blocks", form="N,N"),
    Key("capacity", _capacity, "tokens a second, beside what the plan would cost", form="PREFILL,DECODE"),
    *TRANSFORM_KEYS.values(),
    _DATA,
    switch("json", "as JSON"),
)
REPORT: Final = table(
    Key("slo", _class_slo, "judge by this one", form="CLASS:SLO", many=True),
    Key("window", forms.time_range, "only this part", form="A..B"),
    Key("bucket", forms.positive_duration, "of timelines", "1s", "D", texts.duration),
    choice("format", ("text", "json", "csv", "html", "md"), "how it is written", "text"),
    Key("output", _there, "a file, also as -o", "stdout", "FILE"),
    Key("against", _there, "another run, beside", form="DIR"),
)
MOCK: Final = table(
    Key("listen", _listen, "address, port 0: any", "127.0.0.1:0", "HOST:PORT"),
    choice("mode", ("canned", "engine"), "prebuilt answers, or a modelled engine", "canned"),
    Key("procs", whole(1, keys_run.MAX_PROCS), "processes on one port, canned only", "1", "N"),
    Key("fault", _fault, "KIND[:arguments][;rate=2%|;nth=3], such as status:503;rate=1%", form="SPEC", many=True),
    Key("model", _there, "its name", "mock", "M"),
    Key("shape", _shape, "canned: form and number of tokens", "json", "json[:N]|burst:N|paced:N@20ms"),
    choice("text", ("prompt", "fixed"), "canned: what the text depends on", "prompt"),
    choice("preset", ("gpu-like", "cpu-small"), "engine: its costs and sizes", "gpu-like"),
    Key("ttft", _times, "engine, simple form: time to the first token", form="DIST"),
    Key("tpot", _times, "engine, simple form: time of each further token", form="DIST"),
    Key("slots", whole(1), "engine, simple form: requests at once", form="N"),
    Key("speed", forms.factor, "engine: factor of all rates", "1", "X"),
    Key("kv-events", _there, "engine: publish cache events here, replay on the next port", form="tcp://127.0.0.1:PORT"),
    choice("tokenizer", ("words", "bytes"), "what is one token", "words"),
    Key("vocab", whole(1), "token ids", "32768", "N"),
    Key("tokens-per-chunk", whole(1, 10_000), "in one event", "1", "N"),
    Key("reasoning", whole(0, 100_000), "tokens of reasoning before each answer", "0", "N"),
    Key("natural", units.dist, "output lengths where a request does not ignore the end", form="DIST"),
    Key("default-tokens", whole(1, 100_000), "output where a request does not say", "16", "N"),
    Key("max-waiting", whole(1), "requests at once, above that 503", "10000", "N"),
    Key("max-connections", whole(1), "connections at once", "20000", "N"),
    Key("wire", _there, "be workers of this router of ours", form="ENDPOINT"),
    Key("workers", whole(1, 1024), "so many, with --wire", "1", "N"),
    Key("model-dir", _there, "whose model they claim to have, with --wire", form="DIR"),
    Key("seed", whole(0, 2**63 - 1), "of all that is drawn", "0", "N"),
)
SELFTEST: Final = table(
    Key("procs", whole(1, keys_run.MAX_PROCS), "load processes", "1, 2, 4 by cores", "N"),
    switch("json", "as JSON"),
)
