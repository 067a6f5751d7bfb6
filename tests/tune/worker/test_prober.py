"""The turns of probes that load together."""

from __future__ import annotations

import threading

from tune.worker.prober import Wave

WITHIN_S = 60.0  # of a thread, before a test gives it up


def test_none_is_timed_before_all_have_loaded_or_ended_and_never_two_at_once() -> None:
    wave, timed, seen = Wave(4), threading.Lock(), []
    loaded = threading.Event()

    def probe(pid: int) -> None:
        others = wave.wait(pid)
        assert loaded.is_set() and timed.acquire(blocking=False)
        seen.append((pid, sorted(others)))
        timed.release()
        wave.leave(waited=True)

    threads = [threading.Thread(target=probe, args=(pid,)) for pid in (1, 2, 3)]
    for thread in threads:
        thread.start()
    loaded.set()
    wave.leave(waited=False)  # the fourth ends while it loads, as one that fails does
    for thread in threads:
        thread.join(WITHIN_S)
    assert sorted(pid for pid, _ in seen) == [1, 2, 3]
    left = [1, 2, 3]
    for pid, others in seen:
        left.remove(pid)
        assert others == left  # the pids of those that wait beside it on the device
