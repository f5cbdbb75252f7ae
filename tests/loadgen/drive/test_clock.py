"""Alarms: never early, in order, and the virtual clock's."""

from __future__ import annotations

import asyncio
import time

import pytest

from loadgen.drive.clock import MonotonicClock, VirtualClock, has_timerfd


@pytest.mark.parametrize(
    "timerfd", [pytest.param(True, marks=pytest.mark.skipif(not has_timerfd(), reason="no timerfd")), False]
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_alarm_is_never_early(timerfd: bool, loop: str) -> None:
    async def main() -> list[int]:
        clock = MonotonicClock(time.monotonic_ns(), timerfd=timerfd)
        dues = [1_000 + 700 * n for n in range(40)]
        late: list[int] = []
        done = asyncio.Event()

        def fire() -> None:
            late.append(clock.now() - dues[len(late)])
            if len(late) == len(dues):
                done.set()
            else:
                alarm.set(dues[len(late)])

        alarm = clock.alarm(fire)
        alarm.set(dues[0])
        await done.wait()
        alarm.close()
        alarm.close()
        return late

    runner = asyncio.run if loop == "asyncio" else pytest.importorskip("uvloop").run
    late = runner(main())
    assert len(late) == 40
    assert min(late) >= 0


@pytest.mark.parametrize("timerfd", [True, False])
def test_a_cancelled_alarm_is_silent_and_the_last_setting_counts(timerfd: bool) -> None:
    async def main() -> list[int]:
        clock = MonotonicClock(time.monotonic_ns(), timerfd=timerfd and has_timerfd())
        fired: list[int] = []
        done = asyncio.Event()
        silent = clock.alarm(lambda: fired.append(-1))
        silent.set(2_000)
        silent.cancel()
        moved = clock.alarm(lambda: (fired.append(clock.now()), done.set()))
        moved.set(1_000)
        moved.set(6_000)
        await done.wait()
        moved.set(0)
        done.clear()
        await done.wait()
        silent.close()
        moved.close()
        return fired

    fired = asyncio.run(main())
    assert len(fired) == 2
    assert fired[0] >= 6_000


def test_virtual_time_fires_in_order_at_the_due_time() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, int]] = []
    first = clock.alarm(lambda: seen.append(("first", clock.now())))
    again = clock.alarm(
        lambda: (seen.append(("again", clock.now())), again.set(clock.now() + 10) if clock.now() < 30 else None)
    )
    gone = clock.alarm(lambda: seen.append(("gone", clock.now())))
    first.set(15)
    again.set(10)
    gone.set(12)
    gone.cancel()
    assert clock.next_due() == 10
    clock.run_until(40)
    assert seen == [("again", 10), ("first", 15), ("again", 20), ("again", 30)]
    assert (clock.now(), clock.next_due()) == (40, None)
