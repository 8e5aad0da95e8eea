import type { ViewEvent } from "./qstreamd";

/** An event of the worker inside Next.js: the names of before, most fields absent. */
interface OldEvent {
  type: string;
  taskId: string;
  attempt?: number;
  [field: string]: unknown;
}

/** An old event in today's form; one of today passes unchanged. For as long as both workers write. */
export function modern(event: OldEvent): ViewEvent | undefined {
  if (event.v === 1 || event.type === "gap") return event as unknown as ViewEvent;
  const text = (field: string) => (typeof event[field] === "string" ? (event[field] as string) : "");
  const head = {
    v: 1, taskId: event.taskId, attempt: event.attempt ?? 1, seq: 0, timestamp: Number(event.timestamp ?? 0),
    requestId: text("requestId"), traceId: text("traceId"),
  } as const;
  const delta = text("delta") || (event.type === "token" ? text("token") || text("content") : "");
  if (delta) return { ...head, type: "token_batch", delta, channel: "text" };
  const type = event.type === "status" ? text("status") : event.type;
  switch (type) {
    case "queued":
      return { ...head, attempt: 0, type, queueId: text("queueId") };
    case "started":
      return { ...head, type, stage: "execute", modelId: text("modelId") };
    case "error":
      return {
        ...head, type, stage: "execute", code: (text("code") || "INTERNAL") as "INTERNAL", message: text("message"),
        retryable: event.retryable === true,
      };
    case "done": // without a hash: `verified` says false, and the result is read by its reference
      return {
        ...head, type, stage: "write", resultRef: text("resultRef"), modelId: text("modelId"), contentSha256: "",
        usage: { inputTokens: null, cachedInputTokens: null, outputTokens: null, reasoningTokens: null, costUsd: null },
        finishReason: null,
      };
    case "":
    case "token":
      return undefined;
    default:
      return { ...head, type: "progress", stage: "execute", message: text("message") || type };
  }
}
