"""Nonces of appends."""

from __future__ import annotations

import subprocess
import sys

from daemon.domain.events import nonce


def test_no_nonce_comes_twice() -> None:
    """Not in a process, and not in another one that counts from the same number."""
    other = subprocess.run(
        [sys.executable, "-c", "from daemon.domain.events import nonce; print(nonce())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    ours = {nonce() for _ in range(1000)}
    assert len(ours) == 1000
    assert other not in ours
    assert other[:24] not in {one[:24] for one in ours}


def test_a_forked_process_says_no_word_of_its_parent() -> None:
    """A copy of a process is another process."""
    script = "import os; from daemon.domain.events import nonce; nonce(); os.fork() and os.wait(); print(nonce())"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert len(said) == 2
    assert said[0][:24] != said[1][:24]
