import Redis from "ioredis";
import type { Entry } from "./stream";

type Raw = [id: string, fields: string[]];

const SILENCE_MS = 15_000;
const entry = ([id, fields]: Raw): Entry => ({ id, data: fields[fields.indexOf("data") + 1] ?? "{}" });

/** The same over TCP (`rediss://`), where Redis says by itself when there is more. */
export async function* follow(taskId: string, after: string, stop: AbortSignal): AsyncGenerator<Entry[]> {
  // A blocked read occupies its connection, so every viewer has one of its own.
  const redis = new Redis(process.env.REDIS_URL!, { maxRetriesPerRequest: 2 });
  redis.on("error", () => undefined); // reported by the command that fails; without a listener it would end the process
  stop.addEventListener("abort", () => redis.disconnect());
  try {
    while (!stop.aborted) {
      const found = await redis.xread("COUNT", 200, "BLOCK", SILENCE_MS, "STREAMS", `task:${taskId}:events`, after);
      const entries = ((found?.[0]?.[1] ?? []) as Raw[]).map(entry);
      after = entries.at(-1)?.id ?? after;
      yield entries;
    }
  } catch (error) {
    if (!stop.aborted) throw error;
  } finally {
    redis.disconnect();
  }
}

/** The last event there is. */
export async function last(taskId: string): Promise<Entry | undefined> {
  const redis = new Redis(process.env.REDIS_URL!, { maxRetriesPerRequest: 2 });
  redis.on("error", () => undefined);
  try {
    const [found] = (await redis.xrevrange(`task:${taskId}:events`, "+", "-", "COUNT", 1)) as Raw[];
    return found && entry(found);
  } finally {
    redis.disconnect();
  }
}
