import { redis } from "./redis";

export interface Entry {
  id: string;
  data: string;
}

const SOON_MS = 150;
const LATER_MS = 2_000;
const SILENCE_MS = 15_000;

/**
 * The events after the cursor as they come, and an empty list after 15 s without any. Over REST no read can block, so this asks
 * again and again: quickly while text flows, more rarely while nothing happens. Each question is a billed command.
 */
export async function* follow(taskId: string, after: string, stop: AbortSignal): AsyncGenerator<Entry[]> {
  let pause = SOON_MS;
  let silentSince = Date.now();
  while (!stop.aborted) {
    const entries = read(await redis.xrange(`task:${taskId}:events`, `(${after}`, "+", 200));
    after = entries.at(-1)?.id ?? after;
    if (entries.length || Date.now() - silentSince > SILENCE_MS) {
      silentSince = Date.now();
      yield entries;
    }
    pause = entries.length ? SOON_MS : Math.min(LATER_MS, pause * 1.3);
    await slept(pause, stop);
  }
}

/** The last event there is. */
export async function last(taskId: string): Promise<Entry | undefined> {
  return read(await redis.xrevrange(`task:${taskId}:events`, "+", "-", 1))[0];
}

/** With its JSON guessing off, the client hands out entries as Redis sends them, whatever its types say. */
function read(found: unknown): Entry[] {
  return (found as [id: string, fields: string[]][]).map(([id, fields]) => {
    return { id, data: fields[fields.indexOf("data") + 1] ?? "{}" };
  });
}

function slept(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stop.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
