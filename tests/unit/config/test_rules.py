"""Each rule between settings: the nearest values that hold, the nearest that do not, and the reason that is given."""

from __future__ import annotations

import pytest

from daemon import config
from daemon.config.rules import DAEMON_NEEDS, DEVELOPMENT_KEYS, RELAY_NEEDS, RULES, WARNINGS
from daemon.domain.errors import ConfigError

S3 = {
    "BLOB_STORE": "s3",
    "S3_ENDPOINT_URL": "https://a.r2.example.com",
    "S3_BUCKET": "images",
    "S3_ACCESS_KEY_ID": "id",
    "S3_SECRET_ACCESS_KEY": "key",
}
KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("holds", "breaks", "reason"),
    [
        ({"QSTREAMD_BEAT_S": "6.6"}, {"QSTREAMD_BEAT_S": "6.7"}, "at least 3 beats"),
        ({"QSTREAMD_SELF_FENCE_S": "19.9"}, {"QSTREAMD_SELF_FENCE_S": "20"}, "before its lease ends"),
        ({"QSTREAMD_SELF_FENCE_S": "10.1"}, {"QSTREAMD_SELF_FENCE_S": "10"}, "more than 2 beats"),
        ({"QSTREAMD_LIVENESS_TTL_S": "10"}, {"QSTREAMD_LIVENESS_TTL_S": "9.9"}, "outlast 2 renewals"),
        ({"QSTREAMD_DRAIN_S": "209"}, {"QSTREAMD_DRAIN_S": "210"}, "before systemd kills"),
        ({"QSTREAMD_REDIS_BLOCK_S": "136"}, {"QSTREAMD_REDIS_BLOCK_S": "137"}, "a stop must be able to wait"),
        ({"QSTREAMD_SEEN_TTL_S": "901"}, {"QSTREAMD_SEEN_TTL_S": "900"}, "stay known for longer"),
        ({"QSTREAMD_BLOB_TTL_S": "1801"}, {"QSTREAMD_BLOB_TTL_S": "1800"}, "still find its images"),
        ({"QSTREAMD_RETRY_BASE_S": "60"}, {"QSTREAMD_RETRY_BASE_S": "61"}, "above its cap"),
        ({"QSTREAMD_EVENTS_TTL_S": "3600"}, {"QSTREAMD_EVENTS_TTL_S": "3599"}, "longest life"),
        ({"QSTREAMD_POSTGRES_POOL_MIN": "10"}, {"QSTREAMD_POSTGRES_POOL_MIN": "11"}, "than it may open"),
        (S3, S3 | {"S3_BUCKET": ""}, "all four S3_"),
        ({"API_KEYS": f"a:{KEY},b:{KEY}"}, {"API_KEYS": f"a:{KEY},a:{KEY}1"}, "same name"),
    ],
)
def test_a_rule_holds_up_to_its_edge_and_says_why(holds: dict[str, str], breaks: dict[str, str], reason: str) -> None:
    """One line, with the settings' names and values."""
    config.load(holds)
    with pytest.raises(ConfigError) as caught:
        config.load(breaks)
    (line,) = caught.value.mistakes
    assert reason in line
    assert next(iter(breaks)) in line


def test_a_line_reads_as_people_write_settings() -> None:
    """Numbers without noise, true and false in lower case, what is unset as such."""
    with pytest.raises(ConfigError) as caught:
        config.load({"QSTREAMD_DRAIN_S": "300.5", "BLOB_STORE": "s3", "QSTASH_SKIP_VERIFY": "1"})
    assert [line.partition(": ")[0] for line in caught.value.mistakes] == [
        "QSTREAMD_DRAIN_S=300.5, QSTREAMD_STOP_S=210",
        "BLOB_STORE=s3, " + ", ".join(f"{name} is not set" for name in S3 if name.startswith("S3_")),
        "QSTASH_SKIP_VERIFY=true, NODE_ENV=production",
    ]


def test_rules_name_only_settings_that_exist() -> None:
    """Whoever reads a line can change what it names."""
    known = {entry.name for _, entry in config.catalogue()}
    assert {name for rule in (*RULES, *RELAY_NEEDS, *DAEMON_NEEDS, *WARNINGS) for name in rule.names} <= known


def test_all_keys_of_the_development_server_are_known() -> None:
    """Two for each of its four users; all in the published form."""
    assert len(DEVELOPMENT_KEYS) == 8
    assert all(key.startswith("sig_") and len(key) == 32 for key in DEVELOPMENT_KEYS)


@pytest.mark.parametrize(
    ("environ", "doubt"),
    [
        ({"TASK_TOKEN_SECRET": "x" * 31}, "TASK_TOKEN_SECRET=***"),
        ({"NODE_ENV": "dev"}, "NODE_ENV=dev"),
        ({"REDIS_URL": "redis://h"}, "REDIS_URL=redis://h"),
    ],
)
def test_what_is_legal_but_doubtful_is_only_said(environ: dict[str, str], doubt: str) -> None:
    """A warning, not a refusal."""
    settings = config.load({"REDIS_URL": "redis://:pw@h", **environ})
    assert [line.split(":")[0] for line in settings.warnings] == [doubt.split(":", maxsplit=1)[0]]


def test_nothing_is_doubtful_about_good_settings() -> None:
    """Warnings that are always there are read by nobody."""
    good = {"REDIS_URL": "redis://h?password=x", "TASK_TOKEN_SECRET": "x" * 32, "NODE_ENV": "production"}
    assert config.load(good).warnings == ()
