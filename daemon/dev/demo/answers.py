"""What the stand-in for the models says to the demo's own questions: answers written beforehand, in `answers/`."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from daemon.dev.fake_llm.shapes import Asked

#: how a prompt begins (daemon/services_default/services.toml) -> the file that answers it
_ANSWERS: Final = (
    ("Review this résumé for the role of 前端", "resume-review.zh.txt"),
    ("Review this résumé", "resume-review.txt"),
    ("Write a cover letter for Chen Yutong in a brief", "cover-letter-brief.txt"),
    ("Write a cover letter", "cover-letter.txt"),
    ("How well does", "job-match.json"),
    ("Prepare 5 interview questions", "interview-questions.json"),
    ("Read the job advertisement", "job-ad-reader.json"),
    ("Give feedback on this page", "portfolio-feedback.txt"),
)
#: whose input it is: anybody else's gets what the stand-in makes up, since these answers would be wrong
_OURS: Final = re.compile("MARA LINDQVIST|陈雨桐|Fjordlight")


def answer(asked: Asked) -> str | None:
    """The written answer; None for questions that are not the demo's, and for a picture that did not arrive."""
    if not (asked.images or _OURS.search(asked.prompt)):
        return None
    for beginning, name in _ANSWERS:
        if asked.prompt.lstrip().startswith(beginning):
            return (files("daemon.dev.demo") / "answers" / name).read_text("utf-8").strip()
    return None
