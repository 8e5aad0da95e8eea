import { EVENT_TYPES, INITIAL_VIEW, reduce, type TaskView, type ViewEvent } from "./qstreamd";

/** `broken`: coming back by itself. `lost`: given up after many tries in a row. */
export type Connection = "opening" | "open" | "broken" | "lost";

const QUIET_MS = 60_000; // a connection that says nothing for so long may be dead without knowing: replaced, which costs nothing
const PAUSE_MAX_MS = 20_000;
const TRIES = 12; // one to two minutes

/**
 * Calls `on` with the view after every change until the task has ended; returns a function that stops. `address` is asked before each
 * connection for its URL, so that it can bring a fresh token.
 */
export function followTask(
  address: (after: string) => string | Promise<string>,
  on: (view: Readonly<TaskView>, connection: Connection) => void,
): () => void {
  let view = INITIAL_VIEW;
  let connection: Connection = "opening";
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;
  let stopped = false;

  const tell = (now: Connection) => on(view, (connection = now));
  const close = () => {
    source?.close();
    source = undefined;
    clearTimeout(timer);
  };
  const stop = () => {
    stopped = true;
    close();
    globalThis.removeEventListener?.("online", anew);
  };
  const watch = () => {
    clearTimeout(timer);
    timer = setTimeout(open, QUIET_MS);
  };

  async function open(): Promise<void> {
    close();
    let url: string;
    try {
      url = await address(view.cursor);
    } catch {
      return again();
    }
    if (stopped) return;
    close(); // somebody else may have opened one in the meantime
    const mine = (source = new EventSource(url));
    watch();
    mine.onopen = () => {
      failures = 0;
      tell("open");
    };
    mine.onerror = (event) => {
      if ("data" in event || mine !== source) return; // an event of the task that is called "error", below
      // CONNECTING: it comes back by itself and sends its last id. CLOSED: it never will, after any answer but 200.
      if (mine.readyState === EventSource.CLOSED) again();
      else tell("broken");
    };
    for (const type of [...EVENT_TYPES, "gap"]) mine.addEventListener(type, (message) => take(mine, message as MessageEvent));
  }

  function take(from: EventSource, message: MessageEvent): void {
    if (from !== source || typeof message.data !== "string") return;
    view = reduce(view, JSON.parse(message.data) as ViewEvent, message.lastEventId);
    if (view.ended) stop();
    else watch();
    tell(connection);
  }

  function again(): void {
    close();
    if (stopped) return;
    if (++failures > TRIES) return tell("lost");
    timer = setTimeout(open, Math.random() * Math.min(PAUSE_MAX_MS, 250 * 2 ** failures));
    tell("broken");
  }

  function anew(): void {
    failures = 0;
    void open();
  }

  globalThis.addEventListener?.("online", anew);
  void open();
  return stop;
}
