"""Reading results with Prisma, as docs/nextjs.md does: the models fit our tables, the functions find what is there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from daemon.domain.messages import content_sha256
from tests import front_ends, nodejs

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]  # its packages are 300 MB

PACKAGES: Final = (
    nodejs.TYPESCRIPT, "esbuild@0.28.2", "@types/node@20.19.43", "prisma@7.10.0", "@prisma/client@7.10.0",
    "@prisma/adapter-pg@7.10.0",
)  # fmt: skip
SCHEMA: Final = """
generator client {
  provider = "prisma-client"
  output   = "../generated/prisma"
}
datasource db {
  provider = "postgresql"
  schemas  = ["public", "qstreamd"]
}
"""
CONFIG: Final = """
import { defineConfig } from "prisma/config";
export default defineConfig({
  schema: "prisma",
  experimental: { externalTables: true },
  tables: { external: ["qstreamd.tasks", "qstreamd.results"] },
});
"""
SCRIPT: Final = """
import { endOf, resultByRef, resultOf } from "./lib/result";
import { INITIAL_VIEW, reduce } from "./lib/qstreamd";
const ends = [await endOf("good"), await endOf("bad"), await endOf("open"), await endOf("none")];
const view = reduce(INITIAL_VIEW, ends[0]!);
const said = {
  ends, view, mine: await resultOf("good", "u1"), theirs: await resultOf("good", "u2"),
  byRef: await resultByRef(view.resultRef!, "u1"),
};
console.log(JSON.stringify(said));
process.exit();
"""
TASK: Final = """
INSERT INTO qstreamd.tasks (task_id, queue_id, entry_id, service_id, user_id, state, attempt, message, body_sha256,
                            error_code, finished_at)
VALUES ($1, 'q_paid_stream', 'tasks/1-0', 's', 'u1', $2, 2, '{}', '', $3, CASE WHEN $2 <> 'running' THEN now() END)
"""
RESULT: Final = """
INSERT INTO qstreamd.results (task_id, attempt, content, content_sha256, model_id, usage)
VALUES ('good', 2, $1, $2, 'm1', '{"inputTokens": 7}')
"""


KEPT: Final = {"lib/result.ts", "lib/qstreamd.js", "lib/qstreamd.d.ts", "prisma/qstreamd.prisma", "package.json"}


def project(root: Path) -> Path:
    """What of the page has to do with Prisma, with a generated client, strictly checked; a script that uses it."""
    packages = nodejs.installed("prisma", PACKAGES)
    front_ends.copied(root, "nextjs")
    for path in [p for p in root.rglob("*") if p.is_file()]:
        if path.relative_to(root).as_posix() not in KEPT:
            path.unlink()
    (root / "prisma" / "schema.prisma").write_text(SCHEMA)
    (root / "prisma.config.ts").write_text(CONFIG)
    (root / "node_modules").symlink_to(packages / "node_modules")
    no_download = {"PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true", "CHECKPOINT_DISABLE": "1"}
    made = nodejs.run(root, "node_modules/prisma/build/index.js", "generate", **no_download)
    assert made.returncode == 0, made.stdout + made.stderr
    (root / "node_modules").unlink()
    front_ends.checked(root, front_ends.NEXT, packages)
    return front_ends.bundled(root, "script", SCRIPT)


async def test_the_page_s_functions_read_what_the_daemon_wrote(postgres_url: str, tmp_path: Path) -> None:
    """A result for its owner alone; an end with the hash that the text has, a code, or nothing."""
    script = await asyncio.to_thread(project, tmp_path)
    postgres = await asyncpg.connect(postgres_url, timeout=10)
    for task_id, state, code in (("good", "done", None), ("bad", "failed", "LLM_TIMEOUT"), ("open", "running", None)):
        await postgres.execute(TASK, task_id, state, code)
    await postgres.execute(RESULT, "Good 好", content_sha256("Good 好"))
    await postgres.close()
    found = await asyncio.to_thread(nodejs.run, tmp_path, script, DATABASE_URL=postgres_url)
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    done, failed, running, missing = said["ends"]
    assert (done["type"], done["usage"]["inputTokens"], done["attempt"]) == ("done", 7, 2)
    assert (failed["type"], failed["code"], failed["retryable"]) == ("error", "LLM_TIMEOUT", False)
    assert (running, missing, said["theirs"]) == (None, None, None)
    assert (said["view"]["text"], said["view"]["verified"]) == ("Good 好", True)
    assert said["mine"]["content"] == said["byRef"]["content"] == "Good 好"
