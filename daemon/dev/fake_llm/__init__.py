"""A stand-in for the models: OpenAI-compatible and Gemini endpoints that write, stall, break and refuse on command.

For the demo, tests and chaos runs; production code never imports it. The same request always gets the same text.

    async with FakeLLM(tokens_per_s=500) as fake:
        settings = ProviderSettings(openai_base_url=fake.openai_url, openai_api_key=SecretStr("any"))
        fake.plan("429-after-2", "ok")          # the next two calls
        ...
        assert fake.calls[-1].ending == "finished"

A model named `…fault-{name}` always fails like that (`faults.py` lists the names), `…-once` only the first time for
each conversation. Over HTTP: `POST /_fake/plan`, `GET /_fake/calls`, `POST /_fake/reset`.
"""

from __future__ import annotations

from daemon.dev.fake_llm.calls import Call, CallLog
from daemon.dev.fake_llm.faults import KINDS, Fault
from daemon.dev.fake_llm.server import FakeLLM

__all__ = ["KINDS", "Call", "CallLog", "FakeLLM", "Fault"]
