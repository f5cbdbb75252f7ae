"""The Batch API's client against the mock, over real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from support import loadgen_jobs as rig

from loadgen.drive.clock import MonotonicClock
from loadgen.errors import BadInput
from loadgen.jobs.batch_job import BatchJob
from loadgen.jobs.batch_object import BatchObject, Counts
from loadgen.jobs.checks import CHECKS
from loadgen.jobs.collect import Collector
from loadgen.jobs.inputs import prepare_jobs
from loadgen.mock.ask import ApiError
from loadgen.plan.dialects import Fields

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.jobs.report import JobReport

DAY = 86_400_000_000


def broken(report: JobReport) -> dict[str, int]:
    return {name: count for name, count in report.facts.checks.items() if count}


def test_a_job_comes_back_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            [job] = rig.inputs(tmp_path, 150, deadline=18 * 60_000_000)
            report = await rig.ran(server, job)
            facts = report.facts
            assert (facts.items, facts.completed, facts.failed, facts.lost, facts.unfinished) == (150, 150, 0, 0, 0)
            assert (facts.out_tokens, facts.usage_disagrees, facts.retries) == (450, False, 0)
            assert (facts.deadline, facts.deadline_judge, facts.reason) == (18 * 60_000_000, "server", None)
            assert facts.checks == dict.fromkeys(CHECKS, 0)
            assert report.violations == []
            assert facts.finished is not None
            assert facts.submitted < facts.curve[-1][0] <= facts.finished
            assert facts.curve[-1][1] == 150
            assert sorted(each.item for each in report.items) == list(range(150))
            assert {each.text is not None for each in report.items} == {True}
            assert (tmp_path / "eval-1.out.jsonl").is_file()
            assert server.app is not None
            # Nothing of ours is left behind.
            assert server.app._files.list()["data"] == []

    rig.go(main())


def test_large_jobs_are_split_and_reported_as_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            asked = rig.scenario(11)
            [job] = prepare_jobs(asked, rig.planned(asked), rig.WIRE, tmp_path, most_lines=4)
            assert [len(part.items) for part in job.parts] == [4, 4, 3]
            lines = [orjson.loads(line) for part in job.parts for line in part.file.read_bytes().splitlines()]
            assert [line["custom_id"] for line in lines] == [f"eval.{n}" for n in range(11)]
            assert {line["url"] for line in lines} == {"/v1/chat/completions"}
            assert not any("stream" in line["body"] or "service_tier" in line["body"] for line in lines)
            report = await rig.ran(server, job)
            assert (report.facts.items, report.facts.completed, report.violations) == (11, 11, [])
            assert server.app is not None
            made = server.app._batches.list()["data"]
            assert [each["metadata"]["part"] for each in made] == ["3/3", "2/3", "1/3"]
            longest = max(len(line) + 1 for part in job.parts for line in part.file.read_bytes().splitlines())
            [by_bytes] = prepare_jobs(asked, rig.planned(asked), rig.WIRE, tmp_path, most_bytes=2 * longest)
            assert {part.file.stat().st_size <= 2 * longest for part in by_bytes.parts} == {True}
            assert sum(len(part.items) for part in by_bytes.parts) == 11

    rig.go(main())


@pytest.mark.parametrize(
    ("fault", "wrong", "words"),
    [
        ("batch_lost;nth=2", {"lost": 1, "miscounted": 1, "usage": 1}, "eval: 1 items came back in no file (eval.1)"),
        ("batch_repeat;nth=2", {"repeated": 1}, "eval: 1 items came back more than once (eval.1)"),
        (
            "batch_unknown;nth=2",
            {"unknown": 1},
            "eval: 1 items came back and were never sent (unknown-eval.1)",
        ),
        ("batch_miscount;nth=2", {"miscounted": 2}, "6 completed and 0 failed of 5 items"),
        ("batch_usage;nth=2", {"usage": 1}, "its items add up to"),
        (
            "batch_short;nth=2",
            {"wrong": 1},
            "eval: 1 items have another number of output tokens than asked for (eval.1: 2 for 3)",
        ),
        ("batch_late:reads=1;nth=2", {"late": 1, "lost": 1, "miscounted": 1, "usage": 1}, "after batch"),
    ],
)
def test_what_a_server_does_wrong_is_found(fault: str, wrong: dict[str, int], words: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving("--fault", fault) as server:
            report = await rig.ran(server, rig.inputs(tmp_path)[0])
            found = broken(report)
            # How often it was looked at in between is a matter of time.
            assert (found.pop("steps", 0) > 0) == ("batch_miscount" in fault)
            assert found == wrong
            assert any(words in sentence for sentence in report.violations), report.violations
            assert report.facts.violations == tuple(report.violations)
            facts = report.facts
            assert facts.usage_disagrees == ("usage" in wrong)
            assert facts.completed + facts.failed + facts.expired + facts.lost + facts.unfinished == 5

    rig.go(main())


def test_expired_items_say_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving(*rig.SLOW) as server:
            report = await rig.ran(server, rig.inputs(tmp_path, 100, deadline=30_000)[0])
            facts = report.facts
            assert (facts.deadline_judge, facts.lost, facts.unfinished) == ("server", 0, 0)
            assert facts.expired > 0
            assert facts.completed + facts.expired == 100
            assert report.violations == []
        async with rig.serving(*rig.SLOW, "--fault", "batch_uncoded;nth=1") as server:
            report = await rig.ran(server, rig.inputs(tmp_path, 100, deadline=30_000)[0])
            assert broken(report) == {"uncoded": 1}
            assert report.violations == [
                "eval: 1 items were not done and do not carry the code that says why (eval.0: no code)"
            ]

    rig.go(main())


def test_a_failed_batch_is_told_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            [job] = rig.inputs(tmp_path)
            job.parts[0].file.write_bytes(b"{\n")
            report = await rig.ran(server, job)
            assert report.facts.reason is not None
            assert "line 1: the body is no JSON" in report.facts.reason
            assert (report.facts.finished, report.facts.unfinished, report.facts.lost) == (None, 5, 0)
            assert report.violations == []

    rig.go(main())


def test_a_job_that_is_stopped_keeps_what_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            rig.hold(server, after=30)
            [job] = rig.inputs(tmp_path, 100)
            running = BatchJob(job, rig.endpoint(server), MonotonicClock(), rig.SETTINGS)
            task = asyncio.create_task(running.run())
            while running.done == 0:
                await asyncio.sleep(0.002)
            running.stop()
            facts = (await task).facts
            assert (facts.finished, facts.reason, facts.lost, facts.failed) == (None, "cancelled", 0, 0)
            assert (facts.completed, facts.unfinished) == (30, 70)
            assert facts.violations == ()
            assert facts.out_tokens == 3 * facts.completed

    rig.go(main())


def test_one_that_was_not_submitted_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            running = BatchJob(rig.inputs(tmp_path)[0], rig.endpoint(server), MonotonicClock(), rig.SETTINGS)
            running.stop()
            report = await running.run()
            assert report.facts.reason == "the run ended before it was submitted"
            assert (report.facts.unfinished, report.violations) == (5, [])

    rig.go(main())


def test_a_server_that_dies_ends_the_job_with_a_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            rig.hold(server, after=30)
            [job] = rig.inputs(tmp_path, 100)
            running = BatchJob(job, rig.endpoint(server), MonotonicClock(), rig.IMPATIENT)
            task = asyncio.create_task(running.run())
            while running.done == 0:
                await asyncio.sleep(0.002)
            await server.stop()
            facts = (await task).facts
            assert facts.reason is not None
            assert "Connect" in facts.reason or "closed" in facts.reason
            assert (facts.finished, facts.unfinished, facts.violations) == (None, 100, ())
            assert facts.retries >= 1
            assert facts.curve[-1][1] > 0

    rig.go(main())


def test_a_server_that_forgot_the_job(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            rig.hold(server, after=30)
            [job] = rig.inputs(tmp_path, 100)
            running = BatchJob(job, rig.endpoint(server), MonotonicClock(), rig.SETTINGS)
            task = asyncio.create_task(running.run())
            while running.done == 0:
                await asyncio.sleep(0.002)
            assert server.app is not None
            server.app._batches._batches.clear()
            facts = (await task).facts
            assert facts.reason is not None
            assert facts.reason.startswith("the server does not know its batch any more")

    rig.go(main())


def test_nobody_there_at_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            where = rig.endpoint(server)
        report = await BatchJob(rig.inputs(tmp_path)[0], where, MonotonicClock(), rig.IMPATIENT).run()
        assert report.facts.reason is not None
        assert report.facts.reason.startswith("the upload failed: ")
        assert report.facts.unfinished == 5

    rig.go(main())


def test_the_deadline_goes_to_a_server_that_takes_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            [job] = rig.inputs(tmp_path, deadline=15 * DAY)
            assert (await rig.ran(server, job)).facts.deadline_judge == "server"
            assert server.app is not None
            assert server.app._batches.list()["data"][0]["completion_window"] == "360h"
            check = server.app._batches._check

            def only_a_day(body: dict[str, Any]) -> int:
                if body["completion_window"] != "24h":
                    raise ApiError(400, "only 24h", param="completion_window")
                return check(body)

            server.app._batches._check = only_a_day  # type: ignore[method-assign]
            again = await rig.ran(server, job, replace(rig.SETTINGS, run_id="b"))
            assert (again.facts.deadline_judge, again.facts.completed, again.violations) == ("client", 5, [])
            assert server.app._batches.list()["data"][0]["completion_window"] == "24h"

    rig.go(main())


def test_a_repeated_call_makes_no_second_batch(tmp_path: Path) -> None:
    """The answer to the first creation is lost on the way."""

    async def main() -> None:
        async with rig.serving() as server:
            assert server.app is not None
            whole, cuts = server.app._jobs, []

            def cut(request: object, reply: object) -> None:
                if request.path == "/v1/batches" and not cuts:  # type: ignore[attr-defined]
                    cuts.append(1)
                    server.app._batches.create(request.body, request.header("idempotency-key"))  # type: ignore[attr-defined, union-attr]
                    reply.cut()  # type: ignore[attr-defined]
                else:
                    whole(request, reply)  # type: ignore[arg-type]

            server.app._jobs = cut  # type: ignore[method-assign]
            report = await rig.ran(server, rig.inputs(tmp_path)[0])
            assert (report.facts.completed, report.violations, len(cuts)) == (5, [], 1)
            assert len(server.app._batches._batches) == 1

    rig.go(main())


def test_lines_are_as_the_api_wants_them(tmp_path: Path) -> None:
    asked = rig.scenario(2)
    fields = {"eval": Fields({"x-tenant": "t1"}, {"service_tier": "flex", "cache_salt": "s"})}
    wire = replace(rig.WIRE, fields=fields)
    [job] = prepare_jobs(asked, rig.planned(asked), wire, tmp_path)
    assert job.headers == {"x-tenant": "t1"}
    bodies = [orjson.loads(line)["body"] for line in job.parts[0].file.read_bytes().splitlines()]
    assert [(each.get("service_tier"), each["cache_salt"]) for each in bodies] == [(None, "s"), (None, "s")]
    own = replace(asked, offline=(replace(asked.offline[0], body={"service_tier": "flex"}),))
    [job] = prepare_jobs(own, rig.planned(own), wire, tmp_path)
    assert b'"service_tier":"flex"' in job.parts[0].file.read_bytes()
    with pytest.raises(BadInput, match=r"item eval\.0 has"):
        prepare_jobs(asked, rig.planned(asked), wire, tmp_path, most_bytes=50)


def test_what_changes_after_the_end_is_found_though_it_is_no_longer(tmp_path: Path) -> None:
    class Changed:
        """Answers for a server that wrote another text of the same length, and counts otherwise now."""

        async def get(self, batch_id: str) -> BatchObject:
            return BatchObject(batch_id, "completed", "f", request_counts=Counts(5, 4, 1))

        async def num_bytes(self, file_id: str) -> int:
            return len(file_id) + 2

        async def download(self, file_id: str, into: Path) -> int:
            assert file_id == "f"
            return into.write_bytes(b"new")

    async def main() -> None:
        [job] = rig.inputs(tmp_path)
        collector = Collector(job, keep_text=False)
        path = collector.path(1, "out")
        path.write_bytes(b"old")
        collector.add(1, "f", path)
        before = BatchObject("b", "completed", "f", request_counts=Counts(5, 5, 0))
        await collector.look_again(Changed(), 1, before)  # type: ignore[arg-type]
        assert collector.ledger.sentences == [
            "batch b changed after it was completed",
            "file f changed after batch b was completed",
        ]
        assert not path.with_name(path.name + ".again").exists()
        nothing = Collector(job, keep_text=False)
        without_output = BatchObject("b", "cancelled", None, request_counts=before.request_counts)
        await nothing.read(1, job.parts[0], without_output)
        assert nothing.ledger.counts["partial"] == 1

    rig.go(main())
