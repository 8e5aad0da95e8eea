"""Imported once by the fork server of `tests.e2e.forked`: all that a daemon or relay would import after its start."""

# ruff: noqa: F401

from __future__ import annotations

import gc

import openai.resources.chat
import pytest  # the main module of the suite: each forked process would import it anew
import uvloop

import daemon.admin.queue_api
import daemon.cli.relay
import daemon.cli.run
import daemon.dev.failpoints
import daemon.processes.consumer
import daemon.processes.relay
import daemon.relay.server
import tests.e2e.forked

gc.collect()
gc.freeze()  # a daemon looks through its garbage once at its start: not through what it shares with the server
