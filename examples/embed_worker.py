"""Joins a running router as one more worker, from a program of one's own.

Arguments: the model (the router's own folder or name) and the router's worker socket; by default smollm2 and the usual
socket. Ctrl-C or SIGTERM finishes what is running, then ends.
"""

import signal
import sys

from slackwater import Worker

model, router = [*sys.argv[1:], None, None][:2]
with Worker(model or "smollm2", router=router) as worker:
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    signal.signal(signal.SIGINT, lambda *_: worker.stop())
    worker.run()
