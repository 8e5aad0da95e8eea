import { Client, type PublishRequest } from "@upstash/qstash";
import { type Queued, takePlace } from "./admission";
import type { WorkerBody } from "./qstreamd";
import { redis } from "./redis";

export type Submitted =
  | { ok: true; taskId: string; queueId: string; position: number; sseUrl: string }
  | { ok: false; code: "QUEUE_FULL"; retryAfter: number }
  | { ok: false; code: "DUPLICATE" };

type More = Pick<PublishRequest, "delay" | "notBefore" | "flowControl">;

const qstash = new Client({ token: process.env.QSTASH_TOKEN!, baseUrl: process.env.QSTASH_URL, devMode: false });

/**
 * Hands a task over: to the first of `queues` that has room, so "auto" is `["q_paid_stream", "q_free_stream"]`. Login, quota and
 * billing come before this. Store `taskId` first; the same call again is harmless.
 */
export async function submit(service: string, task: WorkerBody, queues: readonly string[]): Promise<Submitted> {
  let retryAfter = Infinity;
  for (const queueId of queues) {
    const body = { ...task, queueId };
    const place = await takePlace(redis, body, maxSize(queueId));
    if (place.ok) {
      await publish(service, body);
      const { taskId } = task;
      return { ok: true, taskId, queueId, position: place.position, sseUrl: `/api/tasks/${taskId}/events` };
    }
    if ("used" in place) return { ok: false, code: "DUPLICATE" };
    retryAfter = Math.min(retryAfter, place.retryAfter);
  }
  return { ok: false, code: "QUEUE_FULL", retryAfter };
}

/** One call to QStash. If it fails, do nothing: the place goes back by itself, or the same call again finds it. */
export async function publish(service: string, body: Queued, more: More = {}): Promise<void> {
  const base = process.env.WORKER_BASE_URL!;
  const mode = body.queueId.endsWith("_stream") ? "stream" : "batch"; // images are batch
  await qstash.publishJSON({
    url: `${base}/api/worker/${mode}/${service}`,
    body,
    retries: 5, // of the call, not of the work
    retryDelay: "min(60000, pow(2, retried) * 1000)", // ms; by default the fourth would come six hours later
    deduplicationId: body.taskId, // two clicks, one message; the relay itself knows a task for seven days
    failureCallback: `${base}/api/qstash/failed`, // ends the viewer's wait with DELIVERY_FAILED
    label: service,
    ...more,
  });
}

/** QUEUE_MAX_PAID_STREAM and its like, else QUEUE_MAX_SIZE, as the relay reads them. */
function maxSize(queueId: string): number {
  const own = process.env[`QUEUE_MAX_${queueId.replace(/^q_/, "").toUpperCase()}`];
  return Number(own ?? process.env.QUEUE_MAX_SIZE ?? 200);
}
