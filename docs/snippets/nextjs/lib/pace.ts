import { Client } from "@upstash/qstash";
import type { Queued } from "./admission";
import { publish } from "./submit";

/** With a flow-control key: QStash calls the relay for this queue at most `rate` times a second; the rest waits at QStash. */
export async function publishPaced(service: string, body: Queued, rate: number): Promise<void> {
  await publish(service, body, { flowControl: { key: body.queueId, rate, period: "1s" } });
}

/** Through a named queue of QStash: strictly first in, first out. */
export async function enqueueNamed(service: string, body: Queued): Promise<void> {
  const qstash = new Client({ token: process.env.QSTASH_TOKEN!, baseUrl: process.env.QSTASH_URL, devMode: false });
  const mode = body.queueId.endsWith("_stream") ? "stream" : "batch";
  const base = process.env.WORKER_BASE_URL!;
  await qstash.queue({ queueName: body.queueId }).enqueueJSON({
    url: `${base}/api/worker/${mode}/${service}`,
    body,
    deduplicationId: body.taskId,
    failureCallback: `${base}/api/qstash/failed`,
  });
}
