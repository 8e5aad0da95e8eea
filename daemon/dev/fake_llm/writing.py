"""What the fake says: text in the prompt's own words, and descriptions of pictures. Deterministic."""

from __future__ import annotations

import re
from random import Random
from typing import Final

_WORD: Final = re.compile(r"[^\W\d_]{4,}|[\u4e00-\u9fff]{2,4}")
#: a word or its beginning; a character or two where no spaces part words
_TOKEN: Final = re.compile(r"\s*(?:[\u3000-\u9fff\uff00-\uffef]{1,2}|[^\s\u3000-\u9fff\uff00-\uffef]{1,12})")
_STOP: Final = frozenset(
    {
        "about", "above", "after", "also", "answer", "been", "before", "from", "give", "have", "into", "json", "more",
        "only", "other", "please", "some", "than", "that", "their", "them", "then", "there", "these", "they", "this",
        "what", "when", "where", "which", "will", "with", "would", "your",
    }
)  # fmt: skip
_OPENINGS: Final = (
    "Here is what stands out once {a} and {b} are read together.",
    "Taken as a whole, this is a solid basis: {a} carries it, and {b} supports it.",
    "The short version first: {a} is convincing, {b} needs a little work.",
)
_SENTENCES: Final = (
    "The part about {a} is concrete, and it connects well to {b}.",
    "A reader who looks for {a} finds it early, which is the right order.",
    "What is said of {b} stays vague; one number or one example would settle it.",
    "Moving {a} in front of {b} would make the argument easier to follow.",
    "There is a tension between {a} and {b} that deserves an honest sentence.",
    "Compared with {b}, {a} is described in more depth than it needs.",
    "It would help to name who decides about {a}, and by when.",
    "Keep {b}; it is the detail that people remember.",
)
_CLOSINGS: Final = (
    "Next step: rewrite the passage on {a} first, then check whether {b} still fits.",
    "In one line: strengthen {a}, shorten {b}, and it is ready to send.",
)
_THOUGHTS: Final = (
    "The question touches {a}. First compare it with {b}, then weigh what is missing, then answer briefly."
)


def tokens(text: str) -> list[str]:
    """Pieces of about a model's token; joined they are the text."""
    found = _TOKEN.findall(text)
    return [*found, text[len("".join(found)) :]] if len("".join(found)) < len(text) else found


def count(text: str) -> int:
    """About how many tokens a model would count."""
    return (len(text) + 3) // 4


def words(prompt: str) -> list[str]:
    """The prompt's telling words, in order, without repeats."""
    found = dict.fromkeys(w for w in _WORD.findall(prompt) if w.lower() not in _STOP)
    return list(found)[:60] or ["the request", "its context"]


def prose(prompt: str, rng: Random, length: int) -> str:
    """About `length` words in paragraphs and a list."""
    pool = words(prompt)

    def filled(template: str) -> str:
        return template.format(a=rng.choice(pool), b=rng.choice(pool))

    lines, size, paragraph = [filled(rng.choice(_OPENINGS))], 0, 0
    while size < length:
        sentence = filled(rng.choice(_SENTENCES))
        lines.append(("\n- " if paragraph % 3 == 1 else "\n\n" if paragraph % 3 == 2 else " ") + sentence)
        size, paragraph = size + len(sentence.split()), paragraph + 1
    return "".join(lines) + "\n\n" + filled(rng.choice(_CLOSINGS))


def thoughts(prompt: str, rng: Random) -> str:
    """What a thinking model says before it answers."""
    pool = words(prompt)
    return _THOUGHTS.format(a=rng.choice(pool), b=rng.choice(pool))


def described(images: tuple[tuple[str, bytes], ...]) -> str:
    """One sentence that proves that the pictures arrived."""
    if not images:
        return ""
    told = []
    for mime, data in images:
        size = dimensions(data)
        told.append(f"{mime} of {f'{size[0]}x{size[1]} pixels, ' if size else ''}{len(data)} bytes")
    return f"I looked at {len(images)} picture{'s'[: len(images) > 1]}: {'; '.join(told)}. "


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF or JPEG."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if data[:4] == b"GIF8" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in (0xC0, 0xC1, 0xC2):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
