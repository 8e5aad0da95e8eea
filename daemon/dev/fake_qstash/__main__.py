"""`python -m daemon.dev.fake_qstash`: the fake alone, until SIGTERM or SIGINT. One JSON line on stdout when ready."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence

from daemon.dev.fake_qstash.server import FakeQstash


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with FakeQstash(
        port=options.port,
        speed=options.speed,
        token=options.token,
        current_key=options.current_key,
        next_key=options.next_key,
        mischief=options.mischief,
    ) as fake:
        print(json.dumps({"url": fake.url, "speed": options.speed, **fake.environment}), flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a signal, 1 if it could not start, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m daemon.dev.fake_qstash", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="seconds of its clock in a real one; 0: only by /_fake/advance"
    )
    parser.add_argument("--token", help="what clients must show; random if absent")
    parser.add_argument("--current-key", help="signing key; random if absent")
    parser.add_argument("--next-key", help="the signing key after it; random if absent")
    parser.add_argument("--mischief", default="", help="faults of every message, such as 'twice, lost-reply=2'")
    try:
        asyncio.run(serve(parser.parse_args(arguments)))
    except (OSError, ValueError) as error:
        print(f"fake QStash: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
