"""How each arm that is not ours is started; each like its own documentation says, on uvloop, one worker process."""

from __future__ import annotations

import subprocess
import sys

from bench.recorder import Records
from bench.rig import PEERS_PYTHON, ROOT, Broken, Program, Rig

QUEUES = ("taskiq", "streaq")  #: peers that drain and wait; docket is only asked how it idles


def enqueue(peer: str, redis_url: str, records: Records, count: int, sleep_s: float = -1.0) -> None:
    """`count` tasks that do nothing, or wait `sleep_s`."""
    module = "bench.programs.raw" if peer == "raw" else f"bench.programs.peer_{peer}"
    python = sys.executable if peer == "raw" else str(PEERS_PYTHON)
    env = {"REDIS_URL": redis_url, "RECORDER_DIR": str(records.directory.parent), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, "-m", module, "enqueue", str(count), str(sleep_s)], env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True, text=True, timeout=120, check=False, cwd=records.directory,
    )  # fmt: skip
    if done.returncode:
        raise Broken(f"{peer} enqueue: {done.stderr[-800:]}")


def worker(rig: Rig, peer: str, redis_url: str, records: Records, concurrency: int = 100, **more: str) -> Program:
    """One worker process; `more` are further variables for it."""
    env = {"REDIS_URL": redis_url, "RECORDER_DIR": str(records.directory), "CONCURRENCY": str(concurrency), **more}
    if peer == "taskiq":
        arguments = (
            "worker", "bench.programs.peer_taskiq:broker", "--workers", "1", "--max-async-tasks", str(concurrency),
            "--log-level", "WARNING",
        )  # fmt: skip
        return rig.run("taskiq", *arguments, env=env, peer=True)
    if peer == "raw":
        return rig.run("bench.programs.raw", "work", env=env)
    return rig.run(f"bench.programs.peer_{peer}", "work", env=env, peer=True)
