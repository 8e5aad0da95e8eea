"""The code of docs/guides/images.md compiles strictly and runs, and each refusal it names is what a gateway answers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.blobs.inline import decode
from daemon.config.types import SecretStr
from daemon.dev.fake_s3 import FakeS3
from daemon.domain.clock import SystemClock
from daemon.domain.messages import ImageRef
from daemon.gateway.tokens import Tokens, UploadTicket
from tests import nodejs
from tests.e2e.gateway_world import SECRET, World, world
from tests.e2e.test_images import SERVICE
from tests.unit.blobs.pictures import JPEG, PNG, png_of

pytestmark = pytest.mark.timeout(240)

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = (DOCS / "guides" / "images.md").read_text("utf-8")
PACKAGES: Final = (nodejs.TYPESCRIPT, "@types/node@20.19.43", "browser-image-compression@2.0.2")
MIB: Final = 1024 * 1024

#: stands in for the compressor, which needs a canvas: an image as large as argv says, and what was asked of it
COMPRESSOR: Final = """
module.exports = async (file, options) => {
  console.error(JSON.stringify(options));
  return new File([new Uint8Array(Number(process.env.SHRUNK))], file.name, { type: options.fileType });
};
"""
RUN: Final = """
import { readFileSync } from "node:fs";
import image from "./lib/image.js";
import { uploadTicket } from "./lib/ticket.js";
import { upload, uploadToBucket } from "./lib/upload.js";
const [what, path, type, times] = process.argv.slice(2);
const file = new File([readFileSync(path)], path, { type });
const gateway = process.env.GATEWAY;
const said = {
  ticket: async () => uploadTicket("u1", 1000),
  inline: () => image.inline(Array(Number(times)).fill(file)),
  upload: () => upload(gateway, uploadTicket("u1"), file),
  bucket: () => uploadToBucket(gateway, uploadTicket("u1"), file),
}[what]();
const told = (e) => ({ error: e.constructor.name, status: e.status, message: e.message });
console.log(JSON.stringify(await said.catch(told)));
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, compiled; what runs has the compressor's stand-in."""
    packages = nodejs.installed("images", PACKAGES)
    root = tmp_path_factory.mktemp("code")
    blocks = re.findall(r"```ts\n// file: (\S+)\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in blocks] == ["lib/image.ts", "lib/ticket.ts", "lib/upload.ts"]
    (root / "lib").mkdir()
    for name, text in blocks:
        (root / name).write_text(text)
    shutil.copy(DOCS / "contract" / "qstreamd.d.ts", root / "lib")
    options = {
        "strict": True, "noUncheckedIndexedAccess": True, "target": "es2022", "module": "commonjs", "rootDir": ".",
        "esModuleInterop": True, "lib": ["es2023", "dom", "dom.iterable"], "types": ["node"], "outDir": "out",
    }  # fmt: skip
    (root / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    (root / "node_modules").symlink_to(packages / "node_modules")
    found = nodejs.run(root, root / "node_modules/typescript/bin/tsc", "-p", ".")
    assert found.returncode == 0, found.stdout
    stand_in = root / "out" / "node_modules" / "browser-image-compression"
    stand_in.mkdir(parents=True)
    (stand_in / "index.js").write_text(COMPRESSOR)
    (root / "out" / "package.json").write_text('{"type": "commonjs"}')
    (root / "out" / "run.mjs").write_text(RUN)
    return root / "out"


async def run(code: Path, tmp_path: Path, what: str, data: bytes, *more: object, **env: object) -> tuple[Any, str]:
    """What the page's function answers to a file with `data`, and what the compressor was asked."""
    path = tmp_path / "image"
    path.write_bytes(data)
    variables = {"TASK_TOKEN_SECRET": SECRET, **{name: str(value) for name, value in env.items()}}
    found = await asyncio.to_thread(nodejs.run, code, "run.mjs", what, path, *more, **variables)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout), found.stderr


# --- in the browser -----------------------------------------------------------------------------------------------


async def test_a_small_image_is_sent_as_it_is(code: Path, tmp_path: Path) -> None:
    images, asked = await run(code, tmp_path, "inline", PNG, "image/png", 1)
    assert images == [{"data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}]
    assert asked == ""


@pytest.mark.parametrize(("count", "share"), [(1, 600 * 1024), (8, 75 * 1024)])
async def test_larger_ones_are_made_to_fit_together(code: Path, tmp_path: Path, count: int, share: int) -> None:
    """At the very limit the relay still takes them."""
    jpeg = JPEG[:-2] + b"\0" * share + JPEG[-2:]
    images, asked = await run(code, tmp_path, "inline", jpeg, "image/jpeg", count, SHRUNK=share)
    options = json.loads(asked.splitlines()[0])
    assert options == {
        "maxSizeMB": share / MIB, "maxWidthOrHeight": 1024, "initialQuality": 0.8, "fileType": "image/jpeg",
        "useWebWorker": True,
    }  # fmt: skip
    exact = JPEG[:-2] + b"\0" * (share - len(JPEG)) + JPEG[-2:]
    sent = [ImageRef(data=base64.b64encode(exact).decode()) for _ in images]
    assert all(len(image["data"]) == len(ref.data or "") for image, ref in zip(images, sent, strict=True))
    assert len(decode(sent)) == count


async def test_what_can_t_be_made_small_enough_is_told(code: Path, tmp_path: Path) -> None:
    answer, _ = await run(code, tmp_path, "inline", JPEG, "image/heic", 1, SHRUNK=600 * 1024 + 1)
    assert answer["error"] == "ImageTooLarge"


async def test_the_page_s_ticket_is_one_of_ours(code: Path, tmp_path: Path) -> None:
    ticket, _ = await run(code, tmp_path, "ticket", b"")
    assert Tokens(SecretStr(SECRET), SystemClock(), 60).upload_of(ticket) == UploadTicket("u1", 1000)


# --- against a gateway --------------------------------------------------------------------------------------------


@pytest.fixture
async def front(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    bucket = FakeS3()
    await bucket.start()
    settings: dict[str, Any] = {
        "BLOB_DIR": str(tmp_path / "blobs"), "QSTREAMD_BLOB_DISK_FREE_BYTES_MIN": "0", "S3_ENDPOINT_URL": bucket.url,
        "QSTREAMD_BLOB_DISK_BYTES_MAX": str(60 * MIB), "S3_BUCKET": bucket.bucket,
        "S3_ACCESS_KEY_ID": bucket.access_key_id, "S3_SECRET_ACCESS_KEY": bucket.secret,
    }  # fmt: skip
    async with world(redis_url, postgres_url, **settings) as found:
        yield found
    await bucket.stop()


async def test_the_page_s_uploads_reach_their_goal(code: Path, tmp_path: Path, front: World) -> None:
    """Both ways, and a refusal with its words."""
    image, _ = await run(code, tmp_path, "upload", PNG, "image/png", GATEWAY=front.url)
    stored, _ = await run(code, tmp_path, "bucket", PNG, "image/png", GATEWAY=front.url)
    task = await front.submit(images=[{"fileId": image["fileId"]}, stored], **SERVICE)
    assert (await front.events(task))[-1]["type"] == "done"
    refused, _ = await run(code, tmp_path, "upload", b"<svg/>", "image/png", GATEWAY=front.url)
    assert (refused["error"], refused["status"]) == ("UploadRefused", 415)
    assert "SVG" in refused["message"]


def sized(size: int) -> bytes:
    return JPEG[:-2] + b"\0" * (size - len(JPEG)) + JPEG[-2:]


#: what the page's table calls it -> bytes, and the `maxBytes` of the ticket
UPLOADS: Final[dict[str, tuple[bytes, int | None]]] = {
    "20 MiB": (sized(20 * MIB), None),
    "20 MiB and one byte": (sized(20 * MIB + 1), None),
    "more than the ticket's `maxBytes`": (sized(1001), 1000),
    "a PNG named .jpg": (PNG, None),
    "an SVG": (b"<svg xmlns='x'></svg>", None),
    "a HEIC photo": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", None),
    "a truncated JPEG": (JPEG[:-30], None),
    "19 MB that promise 3.6 billion pixels": (png_of(60_000, 60_000) + b"\0" * 19_000_000, None),
}


async def test_the_table_of_refusals_is_true(front: World, tmp_path: Path) -> None:
    """Every row, in the order of the page; none is left out."""
    table = PAGE.split("## What is refused")[1].split("##")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|(?: `(\w+)`)? ?\|$", table, re.MULTILINE)
    answers = {what: (answer, code) for what, answer, code in rows}
    tokens = Tokens(SecretStr(SECRET), SystemClock(), 60)
    seen: dict[str, tuple[str, str]] = {}

    async def send(what: str, data: bytes, ticket: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {ticket}", "Content-Type": "image/jpeg"}
        path = tmp_path / "x.jpg"
        path.write_bytes(data)
        with path.open("rb") as file:
            async with front.http.post(f"{front.url}/api/uploads", data=file, headers=headers) as answer:
                body: dict[str, Any] = await answer.json()
                seen[what] = (str(answer.status), body.get("code", ""))
                return body

    for number, (what, (data, bytes_max)) in enumerate(UPLOADS.items()):
        await send(what, data, tokens.upload_ticket(f"u{number}", bytes_max))
    await send("no ticket, or one that has expired", PNG, tokens.upload_ticket("u1", ttl_s=-60))
    for _ in range(31):
        await send("more than 30 uploads a minute of one user", b"", tokens.upload_ticket("hasty"))
    theirs = await send("", PNG, tokens.upload_ticket("somebody"))
    mine = await send("", PNG, tokens.upload_ticket("u1"))
    del seen[""]
    for path in (tmp_path / "blobs" / "uploads").iterdir():
        if path.stat().st_size == len(PNG):
            path.unlink()  # as the sweep does when they are a day old
    for number in range(3):
        await send("the share of the disk is used up", sized(20 * MIB), tokens.upload_ticket(f"full{number}"))
    for what, file_id in (
        ("a task with `../` in its fileId", "f_../../uploads/x"),
        ("a task with somebody else's fileId", theirs["fileId"]),
        ("a task with a fileId that has expired", mine["fileId"]),
    ):
        task = await front.submit(images=[{"fileId": file_id}], **SERVICE)
        seen[what] = ("the task fails", (await front.events(task))[-1]["code"])
    assert seen == answers
