"""The forms of `REDIS_URL`: one server, the primary that Sentinel names, a cluster.

    redis://user:password@host:6379/0                              also rediss://, upstash:// and unix://
    redis+sentinel://user:password@host,host:26380/service/0       addresses of sentinels; rediss+sentinel:// too
    redis+cluster://user:password@host:7000,host:7001              some nodes of it; rediss+cluster:// too

User and password are those of the servers. Sentinels with a password of their own take it from `?sentinel_password=…`
(and `sentinel_username`). What other clients write is read too: `redis-cluster://`, and `redis-sentinel://host/0#service`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

SCHEMES: Final = (
    *("redis", "rediss", "upstash", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
    *("redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"),
)
ALLOWED: Final = (
    "redis://host:6379/0 (rediss, upstash, unix), redis+sentinel://host,host/service or redis+cluster://host,host"
)
_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
_OF_SENTINELS: Final = "sentinel_"


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a `REDIS_URL` leads."""

    form: Literal["server", "sentinel", "cluster"]
    url: str  #: what all its servers share, as a plain URL of the first address: TLS, user, password, database
    addresses: tuple[tuple[str, int], ...] = ()  #: of sentinels or of nodes; none for one server
    service: str = ""  #: what the sentinels call the primary
    sentinel_login: tuple[str | None, str | None] = (None, None)  #: user and password of the sentinels

    def at(self, host: str, port: int) -> str:
        """`url` with another address: of a node that the others named."""
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{host_and_port(host, port)}").geturl()


def deployment(raw: str) -> Deployment:
    """What the URL says. Raises `ValueError`, whose text never holds the password."""
    if any(c.isspace() for c in raw):
        raise ValueError("has a space in it")
    parts = urlsplit(raw)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"begins with none of {', '.join(SCHEMES)}")
    plain, _, form = parts.scheme.replace("-", "+").partition("+")
    if form == "sentinel":
        return _sentinel(parts, plain)
    if form == "cluster":
        return _cluster(parts, plain)
    located = parts.path if plain == "unix" else (parts.hostname or "host=" in parts.query)
    if not located or parts.port == 0:  # .port itself raises ValueError
        raise ValueError("names no server")
    return Deployment("server", "rediss://" + raw.removeprefix("upstash://") if plain == "upstash" else raw)


def _sentinel(parts: SplitResult, plain: str) -> Deployment:
    service, _, database = parts.path.strip("/").partition("/")
    if parts.fragment:
        service, database = parts.fragment, service
    if not service:
        raise ValueError("names no service: redis+sentinel://host:26379/service")
    query = parse_qsl(parts.query)
    login = dict(pair for pair in query if pair[0].startswith(_OF_SENTINELS))
    addresses = _addresses(parts, "sentinel")
    rest = [pair for pair in query if not pair[0].startswith(_OF_SENTINELS)]
    return Deployment(
        "sentinel",
        _plain(parts, plain, addresses[0], _database(database), rest),
        addresses,
        unquote(service),
        (login.get("sentinel_username"), login.get("sentinel_password")),
    )


def _cluster(parts: SplitResult, plain: str) -> Deployment:
    if _database(parts.path.strip("/")):
        raise ValueError("names a database, but a cluster has only database 0")
    addresses = _addresses(parts, "cluster")
    return Deployment("cluster", _plain(parts, plain, addresses[0], 0, parse_qsl(parts.query)), addresses)


def _addresses(parts: SplitResult, form: str) -> tuple[tuple[str, int], ...]:
    hosts = parts.netloc.rpartition("@")[2]
    return tuple(_address(host, _PORTS[form]) for host in hosts.split(","))


def _address(text: str, port: int) -> tuple[str, int]:
    one = urlsplit(f"//{text}")
    if not one.hostname or one.port == 0:
        raise ValueError(f"{text!r} is not host:port")
    return one.hostname, one.port or port


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"{text!r} is not the number of a database")
    return int(text or 0)


def _plain(
    parts: SplitResult, scheme: str, address: tuple[str, int], database: int, query: list[tuple[str, str]]
) -> str:
    login, at, _ = parts.netloc.rpartition("@")
    more = f"?{urlencode(query)}" if query else ""
    return f"{scheme}://{login}{at}{host_and_port(*address)}/{database}{more}"


def host_and_port(host: str, port: int) -> str:
    """As a URL has it: brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
