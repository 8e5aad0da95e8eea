"""`python -m daemon export-contracts`: writes the generated documents, or says which of them are stale."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export-contracts")
@click.option(
    "--write", "write_to", type=click.Path(file_okay=False, path_type=Path), help="Write the files below DIR."
)
@click.option("--check", "check_in", type=click.Path(file_okay=False, path_type=Path), help="Exit 1 if any is stale.")
def command(write_to: Path | None, check_in: Path | None) -> None:
    """Protocol page, JSON Schemas and TypeScript types from the code."""
    directory = write_to or check_in
    if directory is None or (write_to and check_in):
        raise click.UsageError("give either --write DIR or --check DIR")
    stale = [path for path, text in _rendered(directory).items() if _read(path) != text]
    if write_to:
        _write(directory, stale)
    elif stale:
        names = ", ".join(str(path) for path in stale)
        raise click.ClickException(f"stale: {names}; run `python -m daemon export-contracts --write {directory}`")


def _rendered(directory: Path) -> dict[Path, str]:
    from daemon import contract_docs  # imports a template engine; other commands must not pay for it

    return {directory / path: text for path, text in contract_docs.render().items()}


def _write(directory: Path, stale: list[Path]) -> None:
    rendered = _rendered(directory)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rendered[path], "utf-8")
        click.echo(f"wrote {path}")


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None
