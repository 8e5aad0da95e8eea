"""`python -m daemon.dev.fake_llm --port 4000`: serves until SIGINT or SIGTERM; one JSON line on stdout when ready."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path

from daemon.dev.fake_llm.server import FakeLLM


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m daemon.dev.fake_llm", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--tokens-per-s", type=float, default=80.0)
    parser.add_argument("--first-token-s", type=float, default=0.2)
    parser.add_argument("--drip-s", type=float, default=2.0, help="seconds a token of fault-slow-drip")
    parser.add_argument("--words", type=int, default=90, help="length of an answer")
    parser.add_argument(
        "--log", type=Path, default=None, help="append one JSON line for each beginning and end of a call"
    )
    return parser.parse_args(argv)


async def _serve(chosen: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    fake = FakeLLM(
        host=chosen.host, port=chosen.port, tokens_per_s=chosen.tokens_per_s, first_token_s=chosen.first_token_s,
        drip_s=chosen.drip_s, words=chosen.words, log_path=chosen.log,
    )  # fmt: skip
    async with fake:
        ready = {"url": fake.url, "openaiBaseUrl": fake.openai_url, "geminiBaseUrl": fake.gemini_url}
        print(json.dumps(ready), flush=True)
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve with the given arguments (of the process when None)."""
    asyncio.run(_serve(_arguments(argv)))


if __name__ == "__main__":
    main()
