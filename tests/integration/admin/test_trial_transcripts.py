"""What a trial sends back can be put beside the cases as it stands: played again it is the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon.admin.trial.model_calls import Calls
from daemon.admin.trial.plan import plan
from daemon.admin.trial.transcript import redacted, transcript
from daemon.config import ProviderSettings
from daemon.config.types import SecretStr
from daemon.domain.clock import SystemClock
from daemon.services import Model, Price
from tests.conformance.vendor_server import Case, read_case, read_cases, vendor_server

CASES = {case.name: case for case in read_cases("reported")}
#: plain, whole and cut, with pauses, left open, reset in the middle, an error as 200, an unexpected shape
CHOSEN = ("o-length", "o-bom", "o-reasoning-field", "o-finish-open", "g-open", "o-stop-every-cut", "o-200-json-quota",
          "g-200-array", "ob-length", "ob-bom")  # fmt: skip


async def recorded(case: Case, folder: Path) -> Case:
    """The case that a trial makes of its own answer."""
    provider = "gemini" if case.gemini else "openai"
    async with vendor_server() as server:
        server.script = case.script
        told: dict[str, Any] = {f"{provider}_api_key": SecretStr("test-key-0123"), f"{provider}_base_url": server.url}
        calls = Calls(ProviderSettings(**told), SystemClock())
        model = Model("m", provider, "m", prices=(Price(0.1, 0.1, 0.5),))
        _ = [result async for result in calls.run(plan([model], {provider: ""}))]
    kind = "stream" if case.stream else "json"
    [exchange] = [exchange for name, exchange in calls.transcripts if name.endswith(f"-{kind}.http")]
    file = folder / f"{case.name}.http"
    file.write_bytes(transcript(exchange))
    return read_case(file, {})


@pytest.mark.parametrize("name", CHOSEN)
async def test_a_transcript_is_a_case(name: str, tmp_path: Path) -> None:
    """Status, type, every byte but masked ids, and how it ended; pauses as long as they were."""
    case = CASES[name]
    found = await recorded(case, tmp_path)
    assert (found.script.status, found.script.headers) == (case.script.status, list(case.script.headers))
    assert found.script.body == redacted(case.script.body)
    assert found.script.ending == case.script.ending
    assert sum(pause for pause, _ in found.script.pieces) == pytest.approx(
        sum(pause for pause, _ in case.script.pieces if pause >= 0.5), abs=0.5
    )
