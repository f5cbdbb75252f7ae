"""One run from end to end: prepare, conduct, and then judge what was seen, all of it kept in one folder."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from loadgen.drive.gate import HostMeters
from loadgen.drive.parsed_file import beside
from loadgen.drive.scribe import ScribeContext, records_of
from loadgen.errors import ExitCode, LoadgenError
from loadgen.faults import settle
from loadgen.faults.proxy import started
from loadgen.jobs.outputs import OutputLine, needs_outputs, outputs_of, read_outputs, write_outputs
from loadgen.jobs.report import write_reports
from loadgen.jobs.stream_job import stream_reports
from loadgen.jobs.verify import check
from loadgen.measure import integrity
from loadgen.measure.columns import columns
from loadgen.observe.host import identity as host_identity
from loadgen.observe.live import LiveView
from loadgen.run import checks
from loadgen.run.collect import collect
from loadgen.run.conduct import conduct
from loadgen.run.facts import run_facts, with_messages
from loadgen.run.files import RunFolder, publish
from loadgen.run.identity import identity_of
from loadgen.run.prepare import keys_of, prepare
from loadgen.run.prime import prime
from loadgen.run.processes import check_limits, processes
from loadgen.run.stage import RunOutcome, Stage
from loadgen.run.watch import expressions
from loadgen.scenario import to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loadgen.drive.scribe import Output
    from loadgen.faults.link import Link
    from loadgen.jobs.report import JobReport
    from loadgen.measure.facts import RunFacts
    from loadgen.options import RunOptions
    from loadgen.record import Record
    from loadgen.run.conduct import Conducted
    from loadgen.run.prepare import Keys, Prepared

RUNS: Final = Path("runs")
_SCRATCH: Final = ("payload.bin", "index.npy")
"""What only load processes need; the workload says the same in less."""


def execute(options: RunOptions, stage: Stage | None = None) -> RunOutcome:
    """Carry out one run, on a loop of its own.

    Raises:
        LoadgenError: there is nothing to report.
    """
    return asyncio.run(execute_here(options, stage))


async def execute_here(options: RunOptions, stage: Stage | None = None) -> RunOutcome:
    """The same on the loop that runs, which is the one of `stage.crew`."""
    # Before anything is asked of the target, which may be behind one of these.
    async with started(options.scenario.proxies) as links:
        return await _execute(options, stage or Stage(), links)


async def _execute(options: RunOptions, stage: Stage, links: Mapping[str, Link]) -> RunOutcome:
    keys = keys_of(options.scenario)
    expressions(options.scenario.aborts)  # an error here leaves no folder behind
    path = Path(options.out or new_folder())
    is_new = not path.exists()
    folder = RunFolder.create(path)
    try:
        prepared = _prepared(options, keys, folder, stage)
        seen = await _conducted(prepared, folder, keys, options, stage, links)
    except (LoadgenError, KeyboardInterrupt, asyncio.CancelledError):
        if is_new and folder.is_unsent:
            shutil.rmtree(path, ignore_errors=True)  # nothing was sent, so there is nothing to look at
        raise
    finally:
        for name in _SCRATCH:
            (folder.path / name).unlink(missing_ok=True)
    return _judged(_cut_short(prepared, seen.stopped), folder, seen, stage)


def _prepared(options: RunOptions, keys: Keys, folder: RunFolder, stage: Stage) -> Prepared:
    prepared = prepare(options.scenario, keys, folder.path, plan=stage.plan)
    if stage.within_limits and not options.scenario.allow_lag:
        check_limits(prepared.plan, processes(options.scenario.procs))
    folder.write_scenario(to_toml(prepared.scenario))
    folder.write_facts(run_facts(prepared, horizon=prepared.plan.window[1], identity={}))
    if prepared.scenario.cache == "primed":
        stage.say(f"primed the cache with {prime(prepared, keys.api)} prefixes")
    return prepared


async def _conducted(
    prepared: Prepared, folder: RunFolder, keys: Keys, options: RunOptions, stage: Stage, links: Mapping[str, Link]
) -> Conducted:
    view = LiveView(options.ui, prepared.scenario, prepared.plan)
    try:
        return await conduct(prepared, folder, keys, view, stage, links)
    finally:
        view.close()


def _cut_short(prepared: Prepared, stopped: int | None) -> Prepared:
    """Issuing ended at `stopped`: what was due later was never offered, so the window ends there."""
    if stopped is None:
        return prepared
    begin, end = prepared.plan.window
    window = (begin, max(begin, min(end, stopped)))
    plan, sent = replace(prepared.plan, window=window), replace(prepared.sent, window=window)
    return replace(prepared, plan=plan, sent=sent)


def new_folder() -> Path:
    """A name of its own under `runs/`: the time, and a number where two runs begin in one second."""
    stem = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    number = 1
    while (RUNS / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return RUNS / (stem if number == 1 else f"{stem}-{number}")


def _judged(prepared: Prepared, folder: RunFolder, seen: Conducted, stage: Stage) -> RunOutcome:
    scenario = prepared.scenario
    records = _records(prepared, folder, seen)
    seen.faults = settle.by_records(seen.faults, scenario.faults, records, prepared.plan)
    if seen.faults and needs_outputs(scenario):
        texts = {line.id: line.text for line in read_outputs(folder.outputs)}
        seen.faults = integrity.of_run(seen.faults, records, texts, prepared.plan, prepared.wire)
    reports = _job_reports(prepared, folder, seen, records)
    facts = _facts(prepared, seen, records, reports, stage)
    _write_beside(folder, seen)
    for left_out in collect(scenario.collect, folder.path / "collected"):
        stage.say(left_out)
    result = publish(folder, facts, started_micros=seen.started_micros, html=stage.html)
    at = columns(records)
    window = (result.window.start, result.window.end)
    outcomes = checks.assertions(scenario.asserts, at, facts, window, stage.other)
    codes = {ExitCode.OK}
    if any(not each.holds for each in outcomes) or any(each.violations for each in reports):
        codes.add(ExitCode.ASSERTION)
    if result.invalid:
        codes.add(ExitCode.INVALID)
    if seen.aborted is not None:
        codes.add(ExitCode.UNREACHABLE)
    if seen.interrupted:
        codes.add(ExitCode.INTERRUPTED)
    return RunOutcome(folder.path, result, frozenset(codes), tuple(outcomes))


def _records(prepared: Prepared, folder: RunFolder, seen: Conducted) -> list[Record]:
    """Parse what load processes wrote, and keep it as records; the spools are not needed any more."""
    scenario = prepared.scenario
    texts: list[OutputLine] = []
    plan = {each.id: each for each in prepared.plan.requests} if needs_outputs(scenario) else {}

    def keep(output: Output) -> None:
        asked = plan.get(output.id)
        if asked is not None:
            texts.append(OutputLine(output.id, output.cls, asked.job, asked.item, output.text))

    context = ScribeContext(
        window=prepared.plan.window,
        horizon=seen.horizon,
        slos={spec.name: spec.slo for spec in scenario.online},
        tokens=scenario.tokens,
        faults=[(each.name, each.at, each.until) for each in seen.faults],
        count_text=prepared.counting.count,
        keep_outputs=keep if plan else None,
        died=seen.lost_processes,
    )
    seen.messages = context.messages
    found: list[Record] = []
    with folder.records_writer() as writer:
        for record in records_of(seen.spools, prepared.sent, context):
            writer.write(record)
            found.append(record)
    if plan:
        write_outputs(texts, folder.outputs)
    for spool in seen.spools:
        spool.unlink(missing_ok=True)
        beside(spool).unlink(missing_ok=True)
    return found


def _job_reports(prepared: Prepared, folder: RunFolder, seen: Conducted, records: list[Record]) -> list[JobReport]:
    scenario, plan = prepared.scenario, prepared.plan
    reports = [*seen.jobs, *stream_reports(scenario, plan, records, seen.horizon)]
    if needs_outputs(scenario):
        lines: Iterator[OutputLine] = read_outputs(folder.outputs)
        every = [*lines, *outputs_of(reports, plan)]
        write_outputs(every, folder.outputs)
        reports = check(scenario, plan, every, reports)
    write_reports(reports, folder.jobs)
    return reports


def _facts(
    prepared: Prepared, seen: Conducted, records: list[Record], reports: list[JobReport], stage: Stage
) -> RunFacts:
    scenario = prepared.scenario
    curve = seen.scraper.curve() if seen.scraper is not None else None
    facts = run_facts(
        prepared,
        horizon=seen.horizon,
        identity=identity_of(prepared, host_identity(), seen.started_micros, len(seen.spools)) | dict(stage.identity),
        faults=seen.faults,
        jobs=[each.facts for each in reports],
        offline_curve=curve,
        interrupted=seen.interrupted,
    )
    facts = with_messages(facts, seen.messages)
    at = columns(records)
    host = seen.host.meters(facts.window) if seen.host is not None else HostMeters()
    verdict = checks.gate(seen.meters, host, at, facts, experiment=stage.experiment)
    lengths = checks.prompt_lengths(records, checked=prepared.counting.checked, template=scenario.api == "chat")
    gate, disturbed = list(verdict.invalid), list(verdict.disturbed)
    if scenario.allow_lag:
        gate, disturbed = list(verdict.lasting), [*disturbed, *(each for each in gate if each not in verdict.lasting)]
    invalid = [*gate, *seen.invalid, *([lengths] if lengths else [])]
    return msgspec.structs.replace(facts, invalid=tuple(invalid), disturbed=tuple(disturbed), quick=stage.quick)


def _write_beside(folder: RunFolder, seen: Conducted) -> None:
    if seen.scraper is not None:
        seen.scraper.write_csv(folder.server)
    if seen.host is not None:
        seen.host.write_csv(folder.host)
    if seen.fault_lines:
        folder.faults.write_bytes(b"".join(line.encoded() for line in seen.fault_lines))
