"""The protocol page is whole."""

from __future__ import annotations

from daemon.contract_docs import page, render


def test_the_page_is_the_same_each_time_and_has_no_hole() -> None:
    """Generated text depends on the code alone, never on the environment, the clock or the order of a set."""
    text = page.protocol()
    assert text == page.protocol()
    assert "{{" not in text and "None" not in text
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_these_files_are_generated() -> None:
    """Two pages, two schemas, two descriptions, one file of types, two of code."""
    assert sorted(map(str, render())) == [
        "contract/WorkerBody.schema.json", "contract/WorkerEvent.schema.json", "contract/asyncapi.json",
        "contract/openapi.json", "contract/promise.ts", "contract/qstreamd.d.ts", "contract/qstreamd.js",
        "metrics.md", "protocol.md",
    ]  # fmt: skip
