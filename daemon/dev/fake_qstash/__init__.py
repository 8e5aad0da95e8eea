"""A QStash for demo, tests and bench: real signatures, real retry times on a faster clock, faults on request.

What producers of this project use of QStash: publish, enqueue, delays, deduplication, retries, flow control and the
failure callback. No schedules, URL groups, batches, event log, nor an API for what was published: their routes are 404.

Never imported by production code. Reads no environment, keeps nothing on disk, delivers to loopback addresses only.
Alone: `python -m daemon.dev.fake_qstash --port 8090 --speed 100`. Where QStash's
documentation leaves a behaviour open, the one that is harder for a receiver is chosen.
"""

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.message import Answer, DeadLetter, Delivery
from daemon.dev.fake_qstash.options import Refused
from daemon.dev.fake_qstash.server import FakeQstash

__all__ = ["Answer", "Clock", "DeadLetter", "Delivery", "FakeQstash", "Refused"]
