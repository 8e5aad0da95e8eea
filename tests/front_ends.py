"""The code of docs/nextjs.md and docs/miniprogram.md: files below docs/snippets/, checked strictly and bundled to run.

`python -m tests.front_ends` writes the files into the pages; a test compares them.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

from tests import nodejs

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGES: Final = {"nextjs.md": "nextjs", "miniprogram.md": "miniprogram"}
PACKAGES: Final = (
    nodejs.TYPESCRIPT, "esbuild@0.28.2", "@types/node@20.19.43", "react@19.3.1", "react-dom@19.3.1",
    "@types/react@19.3.3", "@types/react-dom@19.3.0", "happy-dom@21.0.4", "eventsource@4.1.0", "jose@6.2.18",
    "@upstash/qstash@2.12.0", "@upstash/redis@1.39.0", "ioredis@5.11.1", "ws@8.23.0",
    "miniprogram-api-typings@5.2.3",
)  # fmt: skip
_BLOCK: Final = re.compile(r"^(```\w+\n(?://|#) file: (\S+)\n)(.*?)^```", re.MULTILINE | re.DOTALL)
NEXT: Final = {
    "strict": True, "noUncheckedIndexedAccess": True, "target": "es2022", "module": "esnext", "noEmit": True,
    "moduleResolution": "bundler", "lib": ["es2023", "dom", "dom.iterable", "dom.asynciterable"], "types": ["node"],
    "jsx": "react-jsx", "paths": {"@/*": ["./*"]}, "skipLibCheck": True,
}  # fmt: skip
_MINI: Final = {
    "strict": True, "target": "es2022", "module": "esnext", "moduleResolution": "bundler", "noEmit": True,
    "allowJs": True, "checkJs": True, "lib": ["es2022"], "types": ["miniprogram-api-typings"], "skipLibCheck": True,
}  # fmt: skip
#: what a front end has of its own: who may read what, and its Prisma client (which `test_nextjs_prisma` has)
_THEIRS: Final = {
    "lib/auth.ts": "export const mayRead = async (..._: unknown[]) => true;\n"
    'export const userOf = async () => ({ id: "u7", paid: true });\n',
    "lib/result.ts": 'import type { TerminalEvent } from "./qstreamd";\n'
    "export const endOf = async (_: string): Promise<TerminalEvent | undefined> => undefined;\n",
}


def nextjs(root: Path, **replaced: str) -> Path:
    """A Next.js-like project in `root` with all snippets; strictly checked. `replaced` are further files."""
    copied(root, "nextjs")
    shutil.rmtree(root / "prisma")
    for name, text in {**_THEIRS, **replaced}.items():
        (root / name).write_text(text)
    return checked(root, NEXT, nodejs.installed("front-ends", PACKAGES))


def miniprogram(root: Path) -> Path:
    """The mini-program's files in `root`; strictly checked."""
    copied(root, "miniprogram")
    return checked(root, _MINI, nodejs.installed("front-ends", PACKAGES))


def copied(root: Path, kind: str) -> None:
    """The snippets, and the contract's files in their `lib/`."""
    shutil.copytree(DOCS / "snippets" / kind, root, dirs_exist_ok=True)
    for name in ("qstreamd.js", "qstreamd.d.ts", *(["promise.ts"] if kind == "nextjs" else [])):
        shutil.copy(DOCS / "contract" / name, root / "lib")
    (root / "package.json").write_text('{"type": "module"}')


def checked(root: Path, options: dict[str, object], packages: Path) -> Path:
    """`root`, once the compiler finds nothing in it; its packages are linked there."""
    (root / "node_modules").symlink_to(packages / "node_modules")
    (root / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "exclude": ["node_modules"]}))
    found = nodejs.run(root, root / "node_modules/typescript/bin/tsc", "-p", ".")
    assert found.returncode == 0, found.stdout
    return root


def bundled(root: Path, name: str, code: str, *options: str) -> Path:
    """A script that imports snippets, as one file that Node runs; packages stay outside."""
    (root / f"{name}.ts").write_text(code)
    script = root / f"{name}.mjs"
    bundle = ("--bundle", "--platform=node", "--format=esm", "--packages=external", "--log-level=warning")
    found = nodejs.run(root, "node_modules/esbuild/bin/esbuild", f"{name}.ts", *bundle, *options, f"--outfile={script}")
    assert found.returncode == 0, found.stderr
    return script


def differing(page: str) -> list[str]:
    """The files that the page does not show as they are, or shows without there being one, or does not show."""
    files = {
        path.relative_to(DOCS / "snippets" / PAGES[page]).as_posix(): path.read_text("utf-8")
        for path in (DOCS / "snippets" / PAGES[page]).rglob("*")
        if path.is_file()
    }
    shown = {name: text for _, name, text in _BLOCK.findall((DOCS / page).read_text("utf-8"))}
    return sorted(name for name in files.keys() | shown.keys() if files.get(name) != shown.get(name))


def _write() -> None:
    for page, kind in PAGES.items():
        parts = _BLOCK.split((DOCS / page).read_text("utf-8"))  # text, then for each block: head, name, code, text
        for at in range(2, len(parts), 4):
            parts[at + 1] = (DOCS / "snippets" / kind / parts[at]).read_text("utf-8") + "```"
            parts[at] = ""
        (DOCS / page).write_text("".join(parts), "utf-8")


if __name__ == "__main__":
    _write()
