from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from daemon.domain.errors import ConfigError
from daemon.domain.queues import DEFAULT_QUEUES, Mode, Tier
from daemon.services import Price, ServiceCatalog, load
from daemon.services.sandbox import FILTERS

GOOD = """
[models.flash]
provider = "deepseek"
name = "deepseek-flash"
input = ["text"]
[models.eye]
provider = "gemini"
name = "gemini-flash-latest"
input = ["text", "image"]
[services.review]
prompt = "Review {{ resume }}"
models = { paid = ["flash", "eye"], free = ["flash"] }
[services.look]
prompt = "Look"
models = { paid = ["eye"] }
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "services.toml"


def read(place: Path, text: str) -> ServiceCatalog:
    place.write_text(text, encoding="utf-8")
    return load(place)


def mistakes(place: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(place, text)
    return caught.value.mistakes


def only(place: Path, old: str, new: str) -> str:
    """The one mistake that replacing `old` by `new` in the good file makes."""
    assert old in GOOD
    found = mistakes(place, GOOD.replace(old, new, 1))
    assert len(found) == 1, found
    return found[0]


def added(place: Path, line: str) -> str:
    """The one mistake of a line added to [services.look], the last table."""
    found = mistakes(place, GOOD + line)
    assert len(found) == 1, found
    return found[0]


def test_the_shipped_default_is_good() -> None:
    """Six services for all three kinds of queue, with prices, schemas that compile and templates that parse."""
    catalog = load()
    assert len(catalog.services) == 6
    assert {s.id for s in catalog.services.values() if s.takes_images} == {"job-ad-reader", "portfolio-feedback"}
    assert all(s.models.keys() == {Tier.PAID, Tier.FREE} for s in catalog.services.values())
    assert all((s.schema is None) == (s.output == "text") for s in catalog.services.values())
    assert all(model.price is not None for model in catalog.models.values())
    assert {model.provider for model in catalog.models.values()} == {"deepseek", "openai", "gemini"}
    assert catalog.queues == DEFAULT_QUEUES


def test_the_example_of_the_protocol_is_read_to_the_letter(place: Path) -> None:
    """Every key of protocol 12 means what the protocol says."""
    (place.parent / "resume_review.schema.json").write_text('{"type": "object"}', encoding="utf-8")
    catalog = read(
        place,
        """
[models.deepseek-flash]
provider = "deepseek"
name = "deepseek-flash"
input = ["text"]
concurrency = { paid = 50, free = 10 }
requests_per_minute = 600
tokens_per_minute = 400000
price_per_million_usd = { input = 0.30, cached_input = 0.03, output = 1.20 }

[services.resume-review]
title = "Résumé review"
system = "You are a careful career coach."
prompt = "Review this résumé for {{ role }}:\\n{{ resume }}"
models = { paid = ["deepseek-flash"], free = ["deepseek-flash"] }
output = "json"
schema = "resume_review.schema.json"
max_output_tokens = 4096
temperature = 0.3
first_token_s = 50
idle_s = 40
total_s = 200
attempts = 2

[queues.q_paid_long]
tier = "paid"
mode = "batch"
parallelism = 4
max_size = 100
gives_way_s = 60
""",
    )
    model, service, queue = (
        catalog.models["deepseek-flash"],
        catalog.services["resume-review"],
        catalog.queues["q_paid_long"],
    )
    assert model.concurrency == {Tier.PAID: 50, Tier.FREE: 10}
    assert (model.requests_per_minute, model.tokens_per_minute, model.takes_images) == (600, 400_000, False)
    assert model.price == Price(0.30, 0.03, 1.20)
    assert (service.title, service.system) == ("Résumé review", "You are a careful career coach.")
    assert (service.output, service.schema) == ("json", '{"type":"object"}')
    assert (service.max_output_tokens, service.temperature, service.attempts) == (4096, 0.3, 2)
    assert (service.first_token_s, service.idle_s, service.total_s) == (50, 40, 200)
    assert (queue.tier, queue.mode, queue.parallelism, queue.max_size) == (Tier.PAID, Mode.BATCH, 4, 100)
    assert queue.gives_way_s == 60
    assert set(catalog.queues) == {*DEFAULT_QUEUES, "q_paid_long"}


def test_what_is_left_out_has_the_documented_default(place: Path) -> None:
    service = read(place, GOOD).services["review"]
    assert (service.title, service.system, service.output, service.schema) == ("review", "", "text", None)
    assert (service.first_token_s, service.idle_s, service.total_s, service.attempts) == (60, 60, 240, 3)
    assert (service.max_output_tokens, service.temperature, service.template) == (None, None, None)
    model = read(place, GOOD).models["flash"]
    assert (model.concurrency, model.requests_per_minute, model.tokens_per_minute, model.price) == (
        {},
        None,
        None,
        None,
    )


def test_a_short_total_shortens_the_clocks_that_were_not_set(place: Path) -> None:
    service = read(place, GOOD + "total_s = 30").services["look"]
    assert (service.first_token_s, service.idle_s, service.total_s) == (30, 30, 30)


def test_a_clock_longer_than_the_total_is_a_mistake(place: Path) -> None:
    assert added(place, "idle_s = 300") == (
        "services.toml: [services.look] idle_s = 300 is longer than total_s = 240, so it would never run out"
    )


def test_cached_input_costs_as_much_as_input_when_not_said(place: Path) -> None:
    text = GOOD.replace('input = ["text"]', 'input = ["text"]\nprice_per_million_usd = { input = 2, output = 3 }')
    assert read(place, text).models["flash"].price == Price(2, 2, 3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "deepseek-flash"', "", "[models.flash] name is missing"),
        ('provider = "deepseek"', 'provider = "deepsek"', '"deepsek" is not allowed; did you mean "deepseek"?'),
        ('provider = "deepseek"', 'provider = "x"', "allowed: deepseek, openai, gemini"),
        ('provider = "deepseek"', "provider = 5", "provider is = 5; allowed: a text"),
        ('input = ["text"]', 'input = ["txt"]', 'did you mean "text"?; allowed: text, image'),
        ('input = ["text"]', "input = []", "input is empty; allowed: text, image"),
        ('"text", "image"', '"image"', '[models.eye] input must hold "text"'),
        ('"text", "image"', '"text", "text"', 'names "text" twice'),
        ('"text", "image"', '"text", 1', "holds = 1"),
        ('"text", "image"', '"text", {}', "holds a table"),
        ('input = ["text"]', 'input = "text"', "input is a text; allowed: a list"),
        ('input = ["text"]', 'input = ["text"]\nconcurency = 1', 'concurency is unknown; did you mean "concurrency"?'),
        ('input = ["text"]', 'input = ["text"]\nconcurrency = 5', "concurrency is = 5; allowed: a table"),
        ('input = ["text"]', 'input = ["text"]\nconcurrency = { paid = 0 }', "flash.concurrency] paid = 0 is not"),
        ('input = ["text"]', 'input = ["text"]\nconcurrency = { gold = 1 }', "gold is unknown; allowed: paid, free"),
        ('input = ["text"]', 'input = ["text"]\nrequests_per_minute = -1', "requests_per_minute = -1 is not allowed"),
        ('input = ["text"]', 'input = ["text"]\ntokens_per_minute = 1.5', "is = 1.5; allowed: a whole number"),
        ('input = ["text"]', 'input = ["text"]\ntokens_per_minute = true', "is = true; allowed: a whole number"),
        ('input = ["text"]', 'input = ["text"]\nprice_per_million_usd = { input = 1 }', "usd] output is missing"),
        (
            'input = ["text"]',
            'input = ["text"]\nprice_per_million_usd = { input = -1, output = 1 }',
            "input = -1 is not allowed; allowed: a number from 0 to",
        ),
        ('input = ["text"]', 'input = ["text"]\nproxy = "socks5://h:1080"', "proxy is not allowed; allowed: http"),
        ('input = ["text"]', 'input = ["text"]\nreasoning = "max"', "allowed: off, low, medium, high"),
        ('input = ["text"]', 'input = ["text"]\nproxy = "h:3128"', 'or "direct"'),
        ("[models.flash]", '[models."fl ash"]', "is not an allowed name"),
        ("[services.review]", "[services.Review]", "[services.Review] is not an allowed name"),
        ("[services.review]", "[servicez.review]", 'servicez is unknown; did you mean "services"?'),
        ('["flash", "eye"]', '["flush", "eye"]', '"flush" is not allowed; did you mean "flash"?; allowed: flash, eye'),
        ('prompt = "Look"', 'prompt = " "', "prompt is empty"),
        ('prompt = "Look"', 'prompt = "{{ open"', "prompt is not a template: line 1: unexpected end"),
        ('prompt = "Look"', 'prompt = "{{ a|uper }}"', "no filter 'uper'; did you mean \"upper\"?"),
        ('prompt = "Look"', 'prompt = "a"\nsystem = "{% macro m() %}{% endmacro %}"', "system is not a template"),
        ('prompt = "Look"', "", "[services.look] needs exactly one of prompt and template"),
        ('prompt = "Look"', 'prompt = "a"\ntemplate = "b"', "needs exactly one of prompt and template"),
        ('prompt = "Look"', 'template = "a@b@c"', "template = 'a@b@c' is not allowed; allowed: name or name@version"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place_and_what_is_allowed(place: Path, old: str, new: str, said: str) -> None:
    found = mistakes(place, GOOD.replace(old, new, 1))
    assert any(said in line for line in found), found
    assert all(line.startswith("services.toml:") and "\n" not in line for line in found)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("attempts = 0", "attempts = 0 is not allowed; allowed: a whole number from 1 to 10"),
        ("attempts = 11", "from 1 to 10"),
        ("temperature = 2.5", "temperature = 2.5 is not allowed; allowed: a number from 0 to 2"),
        ("temperature = nan", "temperature = nan is not allowed"),
        ("total_s = 0", "total_s = 0 is not allowed; allowed: a number above 0 to 86400"),
        ("total_s = inf", "total_s = inf is not allowed"),
        (f"total_s = {10**400}", "total_s = inf is not allowed"),
        ("total_s = true", "total_s is = true; allowed: a number"),
        ("total_s = 2026-01-01", "total_s is a date; allowed: a number"),
        ("max_output_tokens = 0", "max_output_tokens = 0 is not allowed"),
        ('output = "yaml"', 'output = "yaml" is not allowed; allowed: text, json'),
        ("modles = 1", 'modles is unknown; did you mean "models"?; allowed: title, system, prompt, template, models'),
        ("[queues.q_long]\nmode = 'batch'", "[queues.q_long] tier is missing"),
        ("[queues.q_long]\ntier = 'gold'\nmode = 'batch'", 'tier = "gold" is not allowed; allowed: paid, free'),
        ("[queues.q_paid_batch]\nmode = 'stream'", 'q_paid_batch is a default queue and always "batch"'),
        ("[queues.Q]\nmode = 'stream'", "[queues.Q] is not an allowed name"),
        ("[queues]\nq_x = 3", "queues.q_x is = 3; allowed: a table [queues.q_x]"),
    ],
)  # fmt: skip
def test_each_wrong_value_is_one_line(place: Path, line: str, said: str) -> None:
    assert said in added(place, line)


def test_a_model_s_way_out_is_read_and_its_password_never_shown(place: Path) -> None:
    told = 'input = ["text"]\nproxy = "http://u:s3cret@10.0.0.8:3128"'
    catalog = read(place, GOOD.replace('input = ["text"]', told, 1))
    assert catalog.models["flash"].proxy == "http://u:s3cret@10.0.0.8:3128"
    assert catalog.models["eye"].proxy == ""
    assert "s3cret" not in repr(catalog)
    found = mistakes(place, GOOD.replace('input = ["text"]', told.replace("http:", "https:"), 1))
    assert len(found) == 1 and "s3cret" not in found[0]


def test_all_mistakes_come_at_once(place: Path) -> None:
    """An operator fixes a file in one go, not one restart at a time."""
    found = mistakes(
        place, GOOD.replace("deepseek", "deep", 1).replace("Review {{", "{% if", 1) + "attempts = 99\nx = 1"
    )
    assert [re.match(r"services.toml: \[\S+\] (\w+)", line)[1] for line in found] == [  # type: ignore[index]
        "provider", "prompt", "attempts", "x",
    ]  # fmt: skip


def test_a_service_takes_images_when_all_its_models_do(place: Path) -> None:
    services = read(place, GOOD).services
    assert services["look"].takes_images
    assert not services["review"].takes_images


def test_a_service_may_decline_images_that_its_models_would_take(place: Path) -> None:
    assert not read(place, GOOD + 'input = ["text"]').services["look"].takes_images


def test_a_service_that_takes_images_refuses_text_only_models(place: Path) -> None:
    """Said aloud with `input`, a text-only fallback stops the start instead of a user's picture."""
    line = only(place, 'prompt = "Review {{ resume }}"', 'prompt = "x"\ninput = ["text", "image"]')
    assert "[services.review] models flash can't read images" in line
    assert "models that can: eye" in line


def test_a_service_needs_a_model(place: Path) -> None:
    assert "[services.look] models is missing" in only(place, 'models = { paid = ["eye"] }', "")
    assert "[services.look.models] names no model" in only(place, '{ paid = ["eye"] }', "{}")


def test_a_default_queue_may_get_other_numbers(place: Path) -> None:
    queues = read(place, GOOD + "[queues.q_paid_vision]\nparallelism = 9\n[queues.q_free_batch]\nmax_size = 7").queues
    assert (queues["q_paid_vision"].parallelism, queues["q_paid_vision"].vision) == (9, True)
    assert (queues["q_free_batch"].max_size, queues["q_free_batch"].parallelism) == (7, 5)
    assert {queue.gives_way_s for queue in queues.values()} == {0.0}


def test_a_queue_gives_way_for_an_hour_at_most(place: Path) -> None:
    """Also one of the six; longer would be no order but starving."""
    queues = read(place, GOOD + "[queues.q_free_batch]\ngives_way_s = 3600").queues
    assert queues["q_free_batch"].gives_way_s == 3600
    with pytest.raises(ConfigError, match=r"\[queues.q_free_batch\] gives_way_s"):
        read(place, GOOD + "[queues.q_free_batch]\ngives_way_s = 3601")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "can't be read: No such file or directory"),
        (b"{", "is not usable: not JSON"),
        (b"\xff", "is not usable: not JSON"),
        (b"[]", "a JSON Schema must be an object"),
        (b'{"type": "objekt"}', "at $.type: 'objekt'"),
        (b'{"$ref": "#/$defs/x"}', "does not lead to a place inside this schema"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "can't be read: larger than 1048576 bytes"),
    ],
)
def test_a_bad_schema_file_is_a_mistake(place: Path, schema: bytes | None, said: str) -> None:
    if schema is not None:
        (place.parent / "s.json").write_bytes(schema)
    line = added(place, 'output = "json"\nschema = "s.json"')
    assert said in line
    assert "[services.look] schema" in line


def test_a_schema_name_that_no_file_can_have_is_a_mistake(place: Path) -> None:
    assert "holds a NUL character" in added(place, 'output = "json"\nschema = "s\\u0000.json"')


def test_a_misspelt_schema_file_gets_a_suggestion(place: Path) -> None:
    (place.parent / "match.schema.json").write_text("{}", encoding="utf-8")
    assert 'did you mean "match.schema.json"?' in added(place, 'output = "json"\nschema = "mach.schema.json"')


def test_a_schema_is_only_for_json(place: Path) -> None:
    (place.parent / "s.json").write_text("{}", encoding="utf-8")
    assert 'schema is only for output = "json"' in added(place, 'schema = "s.json"')


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"[models", "services.toml: is not TOML"),
        (b"a = 1\na = 2", "is not TOML"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b'title = "\xff"', "is not UTF-8 (byte 9)"),
        (b"#" * (2**20 + 1), "can't be read: larger than 1048576 bytes"),
        (b"", "has no [models.*] table"),
    ],
)
def test_a_file_that_is_no_services_file_is_refused(place: Path, raw: bytes, said: str) -> None:
    place.write_bytes(raw)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(place)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SERVICES_FILE: .*none.toml can't be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(str(tmp_path))


def test_the_relay_reads_names_without_templates_or_schemas(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`deep=False` neither imports nor asks Jinja and jsonschema."""
    monkeypatch.setitem(sys.modules, "daemon.services.prompts", None)
    monkeypatch.setitem(sys.modules, "daemon.services.schemas", None)
    place.write_text(GOOD.replace("Look", "{{ open") + 'output = "json"\nschema = "gone.json"', encoding="utf-8")
    assert set(load(place, deep=False).services) == {"review", "look"}


def test_reading_again_gives_an_equal_book(place: Path) -> None:
    """A reload of an unchanged file changes nothing; a changed one is seen."""
    first = read(place, GOOD)
    assert load(place) == first
    assert read(place, GOOD + "attempts = 5") != first


def test_no_damage_of_the_default_file_breaks_the_reader(place: Path) -> None:
    """Every value replaced by every other kind of value: a book or `ConfigError`, never another error."""
    source = Path(str(sys.modules["daemon"].__path__[0])) / "services_default" / "services.toml"
    for schema in source.parent.glob("*.json"):
        (place.parent / schema.name).write_bytes(schema.read_bytes())
    lines = source.read_text(encoding="utf-8").splitlines()
    for at, line in enumerate(lines):
        if re.match(r"\w+ = ", line) is None or line.endswith('"""'):
            continue
        key = line.partition(" = ")[0]
        for value in (
            "-1",
            "0",
            "true",
            '""',
            "[]",
            "{}",
            json.dumps("x" * 300),
            "[[1]]",
            "1979-05-27",
            "{ paid = [{}] }",
        ):
            place.write_text("\n".join([*lines[:at], f"{key} = {value}", *lines[at + 1 :]]), encoding="utf-8")
            try:
                load(place)
            except ConfigError as refused:
                assert all("\n" not in mistake for mistake in refused.mistakes)  # noqa: PT017


def test_the_guide_s_file_works_and_names_every_key(place: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "services.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    assert set(read(place, blocks[0]).services) == {"resume-review", "screenshot"}
    assert all(read(place, block + GOOD).models for block in blocks[1:]), "further ones are models"
    for line in mistakes(place, GOOD + "x = 1\n[models.flash.x]\n[queues.q_x]\ntier = 'paid'\nmode = 'batch'\nx = 1"):
        for key in line.partition("allowed: ")[2].split(", "):
            assert f"`{key}" in guide
    filters = re.search(r"\*\*Filters:\*\* (.*?)\.\n", guide, re.DOTALL)
    assert filters is not None
    assert set(re.findall(r"\w+", filters[1])) == set(FILTERS) - {"d"}
