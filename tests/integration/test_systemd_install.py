"""The install script may be run again, goes back by itself, and takes away only what it brought."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
UNITS: Final = {path.name for path in (ROOT / "systemd").glob("*.*")}
#: in place of the packages, which need a network and a minute
STUB: Final = f"""#!/bin/sh
cd "$(dirname "$0")/.."
mkdir -p .venv/bin && ln -sf {sys.executable} .venv/bin/python && echo "$1" >>.venv/asked
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a release is made of, small."""
    made = tmp_path / "checkout"
    for name in ("systemd", "docs/settings.md", "requirements/run.lock", "daemon/__init__.py", "LICENSE"):
        target = made / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    for name in ("README.md", "pyproject.toml"):
        (made / name).write_text("")
    (made / "requirements" / "install").write_text(STUB)
    (made / "requirements" / "install").chmod(0o755)
    return made


def run(checkout: Path, script: str, root: Path, *more: str) -> str:
    """One run; what it said."""
    found = subprocess.run(
        ["/bin/sh", checkout / "systemd" / script, "--root", root, *more],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stderr


def files(root: Path) -> dict[str, bytes]:
    """Everything below the root that is a file of its own, with its content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts and path.name != "asked"
    }


def test_a_fresh_host_gets_release_units_and_settings(checkout: Path, tmp_path: Path) -> None:
    """The units name a Python and a directory that are there; the credential store is closed to others."""
    root = tmp_path / "root"
    said = run(checkout, "install", root)
    assert "systemctl start qstreamd-migrate" in said
    assert {path.name for path in (root / "etc/systemd/system").iterdir()} == UNITS
    current = root / "opt/qstreamd/current"
    assert current.is_symlink() and not Path(str(current.readlink())).is_absolute()
    assert (current / ".venv/bin/python").exists() and (current / "daemon/__init__.py").exists()
    assert (root / "etc/credstore").stat().st_mode & 0o777 == 0o700
    assert "QSTREAMD_QUEUES=" in (root / "etc/qstreamd/paid.env").read_text()
    command = root / "usr/local/bin/qstreamd"
    assert os.access(command, os.X_OK) and "/opt/qstreamd/current/.venv/bin/python" in command.read_text()


def test_both_places_of_a_daemon_read_its_settings(checkout: Path, tmp_path: Path) -> None:
    """Also of one that was added; a file of its own is kept, and what is of no daemon has none."""
    root, settings = tmp_path / "root", tmp_path / "root/etc/qstreamd"
    run(checkout, "install", root)
    (settings / "mine.env").write_text("QSTREAMD_QUEUES=q_mine\n")
    (settings / "mine-b.env").write_text("of its own\n")
    (settings / "relay.env").write_text("")
    run(checkout, "install", root)
    links = {path.name: str(path.readlink()) for path in settings.iterdir() if path.is_symlink()}
    assert links == {
        **{f"{name}-{place}.env": f"{name}.env" for name in ("paid", "free", "mine-b") for place in "ab"},
        "mine-a.env": "mine.env",
    }
    assert (settings / "mine-b.env").read_text() == "of its own\n"


def test_a_release_that_a_process_runs_from_is_kept(checkout: Path, tmp_path: Path) -> None:
    """However many are installed while it drains."""
    root, code = tmp_path / "root", checkout / "daemon" / "__init__.py"
    run(checkout, "install", root)
    first = (root / "opt/qstreamd/current").resolve()
    with subprocess.Popen(["/bin/cat"], cwd=first, stdin=subprocess.PIPE) as process:
        for number in range(4):
            code.write_text(f"# {number}\n{code.read_text()}")
            run(checkout, "install", root)
        assert first.exists()
        process.communicate()
    code.write_text(f"# last\n{code.read_text()}")
    run(checkout, "install", root)
    assert not first.exists()


def test_a_command_of_that_name_that_is_not_ours_stays(checkout: Path, tmp_path: Path) -> None:
    """At an installation and at its end."""
    root = tmp_path / "root"
    command = root / "usr/local/bin/qstreamd"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    run(checkout, "install", root)
    run(checkout, "uninstall", root)
    assert command.read_text() == "#!/bin/sh\n"


def test_a_second_run_changes_nothing(checkout: Path, tmp_path: Path) -> None:
    """Settings that were edited stay as they are."""
    root = tmp_path / "root"
    run(checkout, "install", root)
    (root / "etc/qstreamd/paid.env").write_text("QSTREAMD_QUEUES=q_mine\n")
    before = files(root)
    said = run(checkout, "install", root)
    assert files(root) == before and "wrote" not in said


def test_another_content_is_another_release_and_the_old_one_is_a_way_back(checkout: Path, tmp_path: Path) -> None:
    """An upgrade changes one link; of older releases two are kept."""
    root = tmp_path / "root"
    current, seen = root / "opt/qstreamd/current", []
    code = checkout / "daemon" / "__init__.py"
    first = code.read_text()
    for number in range(5):
        code.write_text(f"{first}# {number}\n")
        run(checkout, "install", root)
        seen.append(current.resolve().name)
    assert len(set(seen)) == 5
    assert {path.name for path in (root / "opt/qstreamd/releases").iterdir()} == set(seen[2:])
    code.write_text(f"{first}# 3\n")
    run(checkout, "install", root)
    assert current.resolve().name == seen[3]


def test_an_install_that_was_cut_is_finished_by_the_next(checkout: Path, tmp_path: Path) -> None:
    """Packages that did not arrive do not become the release in force."""
    root = tmp_path / "root"
    stub = checkout / "requirements" / "install"
    stub.write_text("#!/bin/sh\nexit 1\n")
    broken = subprocess.run(
        ["/bin/sh", checkout / "systemd" / "install", "--root", root], capture_output=True, timeout=30, check=False
    )  # fmt: skip
    assert broken.returncode == 1 and not (root / "opt/qstreamd/current").exists()
    stub.write_text(STUB)
    run(checkout, "install", root)
    assert (root / "opt/qstreamd/current/.venv/bin/python").exists()


def test_uninstall_leaves_what_is_yours_unless_told_otherwise(checkout: Path, tmp_path: Path) -> None:
    """Twice, too; a file beside the releases is not ours."""
    root = tmp_path / "root"
    run(checkout, "install", root)
    (root / "etc/credstore/qstreamd.redis_url").write_text("redis://x")
    (root / "opt/qstreamd/mine").write_text("")
    wants = root / "etc/systemd/system/qstreamd.target.wants"
    wants.mkdir()
    (wants / "qstreamd@paid.service").symlink_to("/etc/systemd/system/qstreamd@.service")
    run(checkout, "uninstall", root)
    run(checkout, "uninstall", root)
    assert not wants.exists()
    kept = {"etc/credstore/qstreamd.redis_url", "opt/qstreamd/mine"}
    assert set(files(root)) == kept | {f"etc/qstreamd/{name}.env" for name in ("common", "paid", "free")}
    run(checkout, "uninstall", root, "--purge")
    assert set(files(root)) == {"opt/qstreamd/mine"}
