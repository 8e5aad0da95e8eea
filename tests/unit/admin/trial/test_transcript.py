"""What is sent back holds every byte that matters and nothing that opens a door or names an account."""

from __future__ import annotations

import pytest

from daemon.admin.trial.recorder import Exchange
from daemon.admin.trial.transcript import redacted, transcript

SECRET = "wholly-unusual-key-form"


@pytest.mark.parametrize(
    "hidden",
    [
        "sk-proj-abcDEF1234567890", "AIzaSyA-abcdefghijklmnop", SECRET, "org-Ab12Cd34Ef", "proj_Ab12Cd34",
        "user-Ab12Cd34",
        "req_0123456789abcdef", "ann.lee@example.com", "203.0.113.77", "projects/1234567890",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.abc", "Bearer abcdefgh12345678",
    ],
)  # fmt: skip
def test_keys_and_account_ids_are_masked_wherever_they_stand(hidden: str) -> None:
    text = f'{{"error": {{"message": "Rate limit reached for {hidden} in x", "param": null}}}}'.encode()
    found = redacted(text, [SECRET])
    assert hidden.encode() not in found
    assert len(found) == len(text), "lengths and cuts stay where they were"
    assert found.startswith(b'{"error": {"message": "Rate limit reached for ')


@pytest.mark.parametrize("field", ["id", "responseId", "system_fingerprint", "thoughtSignature", "organization"])
def test_fields_that_name_a_call_are_masked(field: str) -> None:
    found = redacted(f'{{"{field}": "chatcmpl-9aBcD", "model": "gpt-6-luna"}}'.encode())
    assert found == f'{{"{field}": "xxxxxxxx-xxxxx", "model": "gpt-6-luna"}}'.encode()


def test_what_the_model_said_and_counted_stays() -> None:
    text = b'data: {"model":"m-1","choices":[{"delta":{"content":"\xe9\x98\x9f\\ud83d 12.5"},"finish_reason":"stop"}],'
    text += b'"usage":{"total_tokens":9}}'
    assert redacted(text, [SECRET]) == text


def test_a_secret_that_two_reads_cut_is_masked() -> None:
    exchange = Exchange(200, "text/plain", [(0.1, b"a wholly-unu"), (0.2, b"sual-key-form b")])
    assert transcript(exchange, [SECRET]).endswith(b"\n\na xxxxxxxxxxxxxxxxxxxxxxx b")


def test_pauses_and_ends_are_written_as_the_cases_have_them() -> None:
    chunks = [(0.1, b"data: 1\n\n"), (0.2, b"data: 2\n\n"), (1.4, b"data: 3\n\n")]
    head = b"HTTP 200 Content-Type: text/event-stream\n\n"
    body = b"data: 1\n\ndata: 2\n\n<sleep 1.2 s>data: 3\n\n"
    whole = Exchange(200, "text/event-stream", chunks)
    assert transcript(whole) == head + body
    assert transcript(Exchange(200, "text/event-stream", chunks, ConnectionResetError())) == head + body + b"<rst>"
    assert transcript(Exchange(200, "text/event-stream", chunks, left_open=True)) == head + body + b"<hang>"
