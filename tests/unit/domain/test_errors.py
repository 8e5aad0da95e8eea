"""Codes and the error tree."""

from __future__ import annotations

import pytest

from daemon.domain import errors
from daemon.domain.errors import CODES, Code, Disposition, ModelUnavailable, Rejected, TaskError


@pytest.mark.parametrize("code", Code)
def test_every_code_has_words_for_users_in_two_languages(code: Code) -> None:
    """Nobody is shown a bare code, and no text ends in the middle of a sentence."""
    info = CODES[code]
    assert info.en.endswith(".")
    assert info.zh.endswith("。")
    assert code.value == code.name
    assert info.retryable is (info.disposition is not Disposition.REJECT)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("RATE_LIMITED", Code.RATE_LIMITED),
        ("OVERLOADED", Code.RATE_LIMITED),
        ("QUOTA", Code.LLM_QUOTA),
        ("UNKNOWN_MODEL", Code.LLM_ERROR),
    ],
)
def test_why_a_model_is_closed_decides_what_the_viewer_is_told(reason: str, code: Code) -> None:
    """A used-up quota is not "busy"; a wrong name is our mistake."""
    error = ModelUnavailable(reason, retry_after_s=3, detail="status 429")
    assert (error.code, error.reason, error.retry_after_s, error.midway) == (code, reason, 3, False)


def test_a_task_error_brings_its_codes_words_unless_it_has_its_own() -> None:
    """`message` is for viewers, `detail` for operators; both are in the text of the error."""
    assert TaskError().message == CODES[Code.INTERNAL].en
    error = Rejected("role is missing", detail="template v3")
    assert (error.code, error.message) == (Code.INVALID_PAYLOAD, "role is missing")
    assert str(error) == "INVALID_PAYLOAD: role is missing (template v3)"
    assert Rejected(code=Code.EXPIRED).message == CODES[Code.EXPIRED].en


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Everything raised on purpose is drawn there, at its place."""
    drawn = errors.__doc__ or ""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.QstreamdError)]
    assert [c.__name__ for c in classes if c.__name__ not in drawn] == []
