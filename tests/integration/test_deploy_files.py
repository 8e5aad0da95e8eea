"""The files an operator deploys are judged by the programs that will read them, and agree with the settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.config import GatewaySettings, RelaySettings, ShutdownSettings

ROOT: Final = Path(__file__).parents[2]
SERVICES: Final = (
    "qstreamd@.service",
    "qstreamd-relay.service",
    "qstreamd-gateway.service",
    "qstreamd-migrate.service",
)
#: beside the interpreter, as pip puts it there for some platforms
HADOLINT: Final = shutil.which("hadolint", path=str(Path(sys.executable).parent))
CADDYFILE: Final = ROOT / "docs" / "deploy" / "Caddyfile"
NGINX: Final = ROOT / "docs" / "deploy" / "nginx.conf"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
needs_caddy = pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")


def run(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    added = [f"{name}={value}" for name, value in (env or {}).items()]
    return subprocess.run(
        ["/usr/bin/env", *added, *map(str, command)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as installed, an instance made of the template, with a program that exists on this machine."""
    for unit in (ROOT / "systemd").glob("*.*"):
        name = unit.name.replace("@.", "@paid-a.")
        (tmp_path / name).write_text(unit.read_text().replace("/opt/qstreamd/current/.venv/bin/python", "/bin/true"))
    return tmp_path


def unit_values(name: str, key: str) -> list[str]:
    text = (ROOT / "systemd" / name).read_text()
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@needs_systemd
def test_systemd_finds_nothing_to_say_about_the_units(units: Path) -> None:
    """`systemd-analyze verify` is silent for every unit."""
    found = run("systemd-analyze", "verify", "--man=no", *sorted(units.iterdir()))
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_of_each_service_is_small(units: Path, name: str) -> None:
    """The score that systemd gives is at most 1.5 of 10."""
    unit = units / name.replace("@.", "@paid-a.")
    found = run("systemd-analyze", "security", "--offline=true", "--threshold=15", unit)
    assert found.returncode == 0, found.stdout.splitlines()[-1:]


def test_all_services_are_hardened_alike() -> None:
    """A line that one unit gained can't be forgotten in another."""
    blocks = {
        (ROOT / "systemd" / n).read_text().split("User=qstreamd")[1].split("[Install]")[0].strip() for n in SERVICES
    }
    assert len(blocks) == 1


def test_python_finds_itself_in_the_release_that_it_was_started_from() -> None:
    """Not behind the link `current`: what a daemon imports after an installation would come from the new release."""
    for name in SERVICES[:3]:
        (start,) = unit_values(name, "ExecStart")
        assert start.startswith("/usr/bin/env .venv/bin/python -m daemon ")
        assert unit_values(name, "WorkingDirectory") == ["/opt/qstreamd/current"]


def test_the_stop_times_agree_with_the_settings() -> None:
    """Both systemd and Compose kill only after the daemon's own limit for stopping, which is longer than its drain."""
    settings = ShutdownSettings()
    assert unit_values("qstreamd@.service", "TimeoutStopSec") == [f"{settings.stop_s:.0f}"]
    assert "stop_grace_period: 210s" in (ROOT / "docker-compose.yml").read_text()
    assert settings.drain_s + 20 <= settings.stop_s == 210


def test_a_bad_setting_is_not_restarted_for_ever() -> None:
    """Exit code 78 stops systemd's retries; 75 (a dependency is away) does not."""
    for name in SERVICES[:3]:
        (codes,) = unit_values(name, "RestartPreventExitStatus")
        assert "78" in codes.split() and "75" not in codes.split()


def test_every_credential_is_optional_and_a_known_setting() -> None:
    """A relative path is looked up in /etc/credstore and may be missing; the name is a setting in lower case."""
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    for unit in SERVICES:
        for credential in unit_values(unit, "LoadCredential"):
            name, _, path = credential.partition(":")
            assert path == f"qstreamd.{name}"
            assert f"`{name.upper()}`" in protocol


def compose(*profiles: str, **env: str) -> dict[str, Any]:
    program = Path(sys.executable).with_name("docker-compose")
    if not program.exists():
        pytest.skip("docker-compose is not installed in this environment")
    file: tuple[str | Path, ...] = ("-f", ROOT / "docker-compose.yml", *(f"--profile={name}" for name in profiles))
    quiet = run(program, *file, "config", "-q", env=env)
    assert (quiet.returncode, quiet.stdout + quiet.stderr) == (0, "")
    found = run(program, *file, "config", "--format", "json", env=env)
    model: dict[str, Any] = json.loads(found.stdout)
    return model


PROFILES: Final = {
    "gateway": {"gateway"},
    "caddy": {"caddy", "caddy-data"},
    "obs": {"prometheus", "grafana"},
    "dev": {"fake-llm", "fake-qstash"},
}
ENDS: Final = {"migrate", "caddy-data"}  #: before others start; no health, no memory beside them


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """Everything, with all profiles."""
    return compose(*PROFILES)


def test_compose_accepts_the_file_and_each_profile_adds_its_services() -> None:
    """The real Compose reads the file without a word; more comes by profile."""
    plain = {"redis", "postgres", "migrate", "relay", "daemon"}
    assert set(compose()["services"]) == plain
    for profile, services in PROFILES.items():
        assert set(compose(profile)["services"]) == plain | services


def test_no_container_runs_as_root_or_can_write_its_image(stack: dict[str, Any]) -> None:
    """Each service is non-root, read-only, without capabilities, and bounded in memory and processes."""
    for name, service in stack["services"].items():
        assert int(service["user"].split(":")[0]) > 0 or name == "caddy-data", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == {"caddy": ["NET_BIND_SERVICE"], "caddy-data": ["CHOWN"]}.get(name, []), (
            name
        )
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0 and int(service["mem_limit"]) > 0, name
        assert service["logging"]["options"]["max-size"] == "10m", name
        assert re.search(r":[\w.-]*\d", service["image"]) or service["image"].startswith("qstreamd:"), name


def test_the_stack_fits_a_host_of_2_gb() -> None:
    """With proxy and gateway: all memory limits of what runs together leave 400 MB to the system."""
    services = compose("caddy", "gateway")["services"]
    limits = {name: int(service["mem_limit"]) for name, service in services.items() if name not in ENDS}
    assert sum(limits.values()) <= (2048 - 400) * 1024 * 1024, limits


def test_only_the_proxy_listens_to_the_world(stack: dict[str, Any]) -> None:
    """Ports are for this host alone but for the proxy's; stores are on no network with a way out."""
    for name, service in stack["services"].items():
        hosts = {port.get("host_ip", "") for port in service.get("ports", ())}
        local = name in {"relay", "gateway", "grafana"}
        assert hosts == ({"127.0.0.1"} if local else {""} if name == "caddy" else set()), name
    for name in ("redis", "postgres", "migrate", "prometheus", "fake-llm"):
        assert set(stack["services"][name]["networks"]) == {"back"}
    assert stack["networks"]["back"]["internal"] is True


def test_every_lasting_service_has_a_health_check(stack: dict[str, Any]) -> None:
    """Whoever waits for a service waits until it answers; the one that ends is waited for by its exit code."""
    for name, service in stack["services"].items():
        assert service["healthcheck"].get("disable", False) is (name in ENDS), name
    for name in ("daemon", "gateway"):
        assert stack["services"][name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_prometheus_reads_every_process_of_the_stack(stack: dict[str, Any]) -> None:
    """The targets are services of the file, at the ports that they listen on."""
    text = (ROOT / "docs" / "deploy" / "prometheus" / "prometheus.yml").read_text()
    environment = {name: service.get("environment", {}) for name, service in stack["services"].items()}
    assert f"relay:{environment['relay']['RELAY_PORT']}" in text
    assert f"names: [daemon], type: A, port: {environment['daemon']['OPS_PORT']}" in text
    assert f"names: [gateway], type: A, port: {environment['gateway']['GATEWAY_PORT']}" in text
    assert environment["daemon"]["OPS_HOST"] == environment["gateway"]["GATEWAY_HOST"] == "0.0.0.0"  # noqa: S104


def test_grafana_finds_its_dashboard_and_asks_for_a_password(stack: dict[str, Any]) -> None:
    """Provisioned from the repository; nothing can be edited into a difference from it."""
    grafana = stack["services"]["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "docs" / "deploy" / "grafana" / home.partition("provisioning/")[2]).is_file()
    assert "GF_SECURITY_ADMIN_PASSWORD__FILE" in grafana["environment"]
    dashboard = json.loads((ROOT / "docs" / "deploy" / "grafana" / "dashboards" / "qstreamd.json").read_text())
    assert (dashboard["uid"], dashboard["id"], dashboard["editable"]) == ("qstreamd", None, False)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_redis_keeps_what_it_acknowledged(stack: dict[str, Any]) -> None:
    """The shipped Redis syncs every write and never evicts."""
    command = " ".join(stack["services"]["redis"]["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert option in command


def test_the_queues_of_the_stack_can_be_chosen() -> None:
    """`QSTREAMD_QUEUES` narrows what this host consumes."""
    assert compose(QSTREAMD_QUEUES="q_paid_stream")["services"]["daemon"]["command"] == ["--queues", "q_paid_stream"]


def test_the_image_installs_by_hash_and_runs_as_a_user() -> None:
    """Nothing unlocked reaches the image, and its process is not root."""
    text = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes --only-binary :all: -r /build/run.lock" in text
    assert re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE) == ["10001"]
    assert len(set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))) == 1, "both stages need the same Python path"


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing_to_say_about_the_image() -> None:
    """The program itself, from its wheel."""
    found = run(HADOLINT or "", ROOT / "Dockerfile")
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@needs_caddy
def test_caddy_takes_several_relays() -> None:
    """As docs/deploy.md names them."""
    several = {"RELAY_UPSTREAM": "10.0.0.2:8080 10.0.0.3:8080"}
    found = run("caddy", "adapt", "--adapter", "caddyfile", "--config", CADDYFILE, env=several)
    assert found.returncode == 0 and found.stdout.count('{"dial":"10.0.0.') == 2, found.stderr


@needs_caddy
def test_caddy_accepts_its_file() -> None:
    """The proxy's own check passes."""
    found = run("caddy", "validate", "--adapter", "caddyfile", "--config", CADDYFILE)
    assert found.returncode == 0, found.stderr


def test_the_proxy_forwards_every_signed_route_and_nothing_private() -> None:
    """Health and metrics stay on the host; the port is the relay's default."""
    text = CADDYFILE.read_text()
    (matcher,) = re.findall(r"@signed path (.*)", text)
    patterns = [re.escape(pattern).replace(r"\*", ".*") for pattern in matcher.split()]
    routes = re.findall(r"`POST (/[^`]*)`", (ROOT / "docs" / "protocol.md").read_text())
    assert len(routes) >= 8
    for route in routes:
        assert any(re.fullmatch(pattern, route) for pattern in patterns), route
    assert not any(re.fullmatch(pattern, "/metrics") or re.fullmatch(pattern, "/healthz/ready") for pattern in patterns)
    assert f"127.0.0.1:{RelaySettings().port}" in text and f"127.0.0.1:{GatewaySettings().port}" in text
    assert "flush_interval" not in re.sub(r"#.*", "", text), "it keeps aborted streams open"


def test_nginx_forwards_the_same_routes_and_nothing_private() -> None:
    """Every signed route and no other; ports are the defaults, events are neither kept nor compressed."""
    text = NGINX.read_text()
    [signed, private] = [re.compile(found) for found in re.findall(r"location ~ (\S+) \{", text)]
    routes = re.findall(r"`POST (/[^`]*)`", (ROOT / "docs" / "protocol.md").read_text())
    assert len(routes) >= 8
    assert [route for route in routes if not signed.match(route)] == []
    for path in ("/metrics", "/healthz/live", "/healthz/ready"):
        assert private.match(path) and not signed.match(path), path
    assert f"127.0.0.1:{RelaySettings().port}" in text and f"127.0.0.1:{GatewaySettings().port}" in text
    assert "proxy_buffering off;" in text and "gzip off;" in text
    assert "$request " not in text and "$args" not in text, "tokens stand in query strings"
