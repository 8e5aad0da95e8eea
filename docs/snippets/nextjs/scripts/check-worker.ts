// In the deploy pipeline, before the new front end goes live: would the relay take what it is going to send?
// WORKER_BASE_URL and QSTASH_CURRENT_SIGNING_KEY from the pipeline's secrets; argv: files with one message each.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { SignJWT } from "jose";

interface Judgement {
  accepted: boolean;
  answer: number; // what a real delivery would get now: 200, 429 (full), 489 (never), 503
  code?: string;
  message?: string;
}

/** Asks the relay as QStash would; it judges and queues nothing. */
export async function check(message: string): Promise<Judgement> {
  const url = `${process.env.WORKER_BASE_URL}/api/worker/check`;
  const key = new TextEncoder().encode(process.env.QSTASH_CURRENT_SIGNING_KEY);
  const body = createHash("sha256").update(message).digest("base64url");
  const signature = await new SignJWT({ body })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setIssuer("Upstash")
    .setSubject(url)
    .setNotBefore(0)
    .setIssuedAt()
    .setExpirationTime("1m")
    .sign(key);
  const headers = { "Content-Type": "application/json", "Upstash-Signature": signature };
  const found = await fetch(url, { method: "POST", headers, body: message, signal: AbortSignal.timeout(10_000) });
  if (!found.ok) throw new Error(`${url}: ${found.status} ${await found.text()}`); // 401: another key or another URL
  return (await found.json()) as Judgement;
}

for (const path of process.argv.slice(2)) {
  const judged = await check(readFileSync(path, "utf8"));
  const fine = judged.accepted || judged.answer === 429; // a full queue is no mistake of the message
  console.log(`${fine ? "ok  " : "FAIL"} ${path}: ${JSON.stringify(judged)}`);
  if (!fine) process.exitCode = 1;
}
