import { createHash } from "node:crypto";
import { PROMISE } from "./promise";
import type { WorkerBody } from "./qstreamd";

/** What we need of a client; @upstash/redis has it, and for ioredis see `overTcp`. */
export interface Evaluates {
  eval(script: string, keys: string[], args: string[]): Promise<unknown>;
}
export type Queued = WorkerBody & { queueId: string };
export type Place = { ok: true; position: number } | { ok: false; retryAfter: number } | { ok: false; used: true };

const PROMISE_TTL_MS = 15 * 60 * 1000; // QSTREAMD_PROMISE_TTL_S of the daemon

/** Takes a place for `body`, which is what you will publish. `maxSize` holds unless an operator has set another. */
export async function takePlace(redis: Evaluates, body: Queued, maxSize = 200): Promise<Place> {
  const counter = `bp:queue:${body.queueId}`;
  const tag = `{${counter}}`; // the braces are Redis Cluster's
  const keys = [
    `${tag}:seen:${body.taskId}`, `${tag}:waiting`, counter,
    `${tag}:control`, `${tag}:promise:${body.taskId}`, `${tag}:pace`,
  ];
  const sha = createHash("sha256").update(JSON.stringify(body)).digest("hex");
  const args = [body.taskId, sha, maxSize, PROMISE_TTL_MS, PROMISE_TTL_MS, `${tag}:seen:`, 1].map(String);
  const reply = (await redis.eval(PROMISE, keys, args)) as [verdict: string, ...numbers: unknown[]];
  switch (reply[0]) {
    case "promised": // publish now; the same call again is fine
      return { ok: true, position: Number(reply[1]) };
    case "full": {
      const wait = Number(reply[3]); // ms until a place is free; -1: nobody knows yet
      return { ok: false, retryAfter: wait < 0 ? 20 : Math.max(1, Math.ceil(wait / 1000)) };
    }
    default: // "duplicate", "conflict": this taskId was used before; do not publish
      return { ok: false, used: true };
  }
}

/** ioredis as the client. */
export function overTcp(redis: { eval(script: string, keys: number, ...rest: string[]): Promise<unknown> }): Evaluates {
  return { eval: (script, keys, args) => redis.eval(script, keys.length, ...keys, ...args) };
}
