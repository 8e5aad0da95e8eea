import { mayRead } from "@/lib/auth"; // yours: does this user own this task?
import { isTerminal, type WorkerEvent } from "@/lib/qstreamd";
import { endOf } from "@/lib/result";
import { follow, last } from "@/lib/stream"; // or "@/lib/stream-tcp"

export const runtime = "nodejs";
export const dynamic = "force-dynamic";
export const maxDuration = 300;

const ROTATE_MS = 285_000; // end before the platform cuts; the browser comes back with its cursor
const CURSOR = /^\d{1,20}-\d{1,20}$/;
const HEADERS = {
  "Content-Type": "text/event-stream; charset=utf-8",
  "Cache-Control": "no-cache, no-transform",
  "X-Accel-Buffering": "no",
};

export async function GET(request: Request, { params }: { params: Promise<{ taskId: string }> }): Promise<Response> {
  const { taskId } = await params;
  if (!(await mayRead(request, taskId))) return new Response(null, { status: 404 });

  const asked = request.headers.get("last-event-id") ?? new URL(request.url).searchParams.get("after") ?? "";
  const after = CURSOR.test(asked) ? asked : "0-0";
  const newest = await last(taskId);
  if (newest && newest.id === after && isTerminal(parse(newest.data))) {
    return new Response(null, { status: 204 }); // tells EventSource not to come back
  }

  const gone = new AbortController();
  const stop = AbortSignal.any([request.signal, gone.signal, AbortSignal.timeout(ROTATE_MS)]);
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      try {
        for await (const frame of frames(taskId, after, stop)) controller.enqueue(encoder.encode(frame));
      } catch (error) {
        if (!stop.aborted) return controller.error(error); // the browser comes back with its cursor
      }
      if (!gone.signal.aborted) controller.close();
    },
    cancel: () => gone.abort(),
  });
  return new Response(body, { headers: HEADERS });
}

async function* frames(taskId: string, after: string, stop: AbortSignal): AsyncGenerator<string> {
  yield ": ok\n\n"; // opens the connection through proxies that wait for a first byte
  for await (const entries of follow(taskId, after, stop)) {
    for (const { id, data } of entries) {
      const event = parse(data);
      yield `id: ${id}\nevent: ${event.type}\ndata: ${data}\n\n`;
      if (isTerminal(event)) return;
    }
    if (entries.length) continue;
    yield ": still here\n\n"; // proxies close silent connections after 30 to 60 s
    const end = await endOf(taskId); // of a stream that has expired, or has lost its end in a failover of Redis
    if (end) return yield `event: ${end.type}\ndata: ${JSON.stringify(end)}\n\n`;
  }
}

const parse = (data: string) => JSON.parse(data) as WorkerEvent;
