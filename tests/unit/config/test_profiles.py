"""Profiles are other defaults: every rule holds in them, and what somebody sets still wins."""

from __future__ import annotations

import pytest

from daemon import config
from daemon.config import Settings, catalogue, describe
from daemon.config.profiles import PROFILES
from daemon.domain.errors import ConfigError

METERED = {"QSTREAMD_REDIS_PROFILE": "metered"}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_rule_between_settings_holds_in_every_profile(profile: str) -> None:
    """Otherwise a process with nothing but the profile would be refused."""
    config.load({"QSTREAMD_REDIS_PROFILE": profile})


def test_every_name_is_a_setting_and_every_value_one_that_it_takes() -> None:
    """Also none that is the default already."""
    known = {entry.name: entry for _, entry in catalogue()}
    for name, value in PROFILES["metered"].items():
        entry = known[name]
        group = type(getattr(Settings(), entry.group)).model_validate({name: f"{value:g}"})
        assert getattr(group, entry.attribute) == value != entry.default


def test_what_is_set_wins_and_everybody_sees_where_a_value_comes_from() -> None:
    """`python -m daemon config` says `profile`."""
    settings = config.load(METERED | {"QSTREAMD_BEAT_S": "10"})
    assert (settings.redis.block_s, settings.lease.beat_s, settings.lease.lease_s) == (120.0, 10.0, 60.0)
    sources = {entry.name: entry.source for entry in describe(settings)}
    assert sources["QSTREAMD_REDIS_BLOCK_S"] == "profile"
    assert sources["QSTREAMD_BEAT_S"] == "environment"
    assert sources["QSTREAMD_DRAIN_S"] == "default"


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    """One line, as for every setting."""
    with pytest.raises(ConfigError, match=r"QSTREAMD_REDIS_PROFILE.*standard.*metered"):
        config.load({"QSTREAMD_REDIS_PROFILE": "cheap"})


def test_more_slots_than_may_be_pending_refuse_the_start() -> None:
    """A managed server refuses the read that would pass its limit: then nothing starts any more."""
    config.load(METERED | {"QUEUE_PARALLELISM_FREE_BATCH": "450"})
    with pytest.raises(ConfigError, match=r"QUEUE_PARALLELISM_FREE_BATCH=451.*QSTREAMD_REDIS_PENDING_MAX=900"):
        config.load(METERED | {"QUEUE_PARALLELISM_FREE_BATCH": "451"})
