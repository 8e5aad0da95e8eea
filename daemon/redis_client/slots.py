"""Where keys lie in a cluster: the keys of a command, the hash slot of a key, the node of a hash slot."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final, Self

from redis import exceptions as rx
from redis.crc import key_slot

Address = tuple[str, int]

#: commands that concern no key
_KEYLESS: Final = frozenset({"TIME", "PING", "INFO", "PUBLISH", "CONFIG GET"})


class SlotMap:
    """Who holds which hash slot, as one node said it."""

    def __init__(self, ranges: Sequence[tuple[int, int, Address]] = ()) -> None:
        """Ranges of first and last slot, ascending, and who holds them."""
        self._ranges = ranges
        self._firsts = [first for first, _, _ in ranges]
        self.addresses: list[Address] = list(
            dict.fromkeys(address for _, _, address in ranges)
        )  #: of all who hold some

    @classmethod
    def of(cls, table: Any, asked: Address) -> Self:
        """From the reply to CLUSTER SLOTS; a node that does not know its own address is where it was `asked`."""
        return cls(sorted((int(first), int(last), _address(primary, asked)) for first, last, primary, *_ in table))

    def holder(self, slot: int) -> Address | None:
        """The address of the node that holds this slot; None: nobody does."""
        at = bisect_right(self._firsts, slot) - 1
        return self._ranges[at][2] if at >= 0 and slot <= self._ranges[at][1] else None


def slot_of(key: str | bytes) -> int:
    """By the part in braces, if there is one."""
    return int(key_slot(key.encode() if isinstance(key, str) else bytes(key)))


def first_key(args: Sequence[Any]) -> str | bytes | None:
    """The key by which a command, as redis-py spells it, finds its node; None: any node will do."""
    keys = keys_of(args)
    return keys[0] if keys else None


def keys_of(args: Sequence[Any]) -> Sequence[Any]:
    """All keys of a command, as redis-py spells it; of those that we send with several, else its first.

    Raises `RedisError` for a command that must be told which node it is meant for (CLIENT LIST, say).
    """
    name = args[0]
    if name in _KEYLESS:
        return ()
    if name in {"XREAD", "XREADGROUP"}:
        rest = args[args.index(b"STREAMS") + 1 :]
        return rest[: len(rest) // 2]
    if name in {"EVALSHA", "EVAL"}:
        return args[3 : 3 + int(args[2])]
    if name == "MGET":
        return args[1:]
    if len(args) < 2:
        raise rx.RedisError(f"{name} concerns no key: ask one of `nodes`")
    return args[1:2]


def _address(primary: Sequence[Any], asked: Address) -> Address:
    host, port = primary[0], int(primary[1])
    name = host.decode() if isinstance(host, bytes) else host
    return (name or asked[0]), port
