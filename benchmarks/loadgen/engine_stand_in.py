"""Work that uses all cores as an engine does: products of matrices, counted until told to end.

`python -P -m benchmarks.loadgen.engine_stand_in SECONDS THREADS DELAY`; prints products and seconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np

SIDE = 256


def _work(until: float, counts: list[int], place: int) -> None:
    left = np.random.default_rng(place).random((SIDE, SIDE), dtype=np.float32)
    right = left.copy()
    while time.monotonic() < until:
        np.matmul(left, right)
        counts[place] += 1


def _main(seconds: float, threads: int, delay: float) -> None:
    time.sleep(delay)
    began = time.monotonic()
    counts = [0] * threads
    workers = [threading.Thread(target=_work, args=(began + seconds, counts, place)) for place in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"products": sum(counts), "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    _main(float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
