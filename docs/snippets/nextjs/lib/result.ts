import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "../generated/prisma/client";
import type { Code, DoneEvent, TerminalEvent, Usage } from "./qstreamd";

const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL }) });

/** The answer of a finished task, if it is this user's; `data` for services whose output is JSON. */
export async function resultOf(taskId: string, userId: string) {
  return prisma.qstreamdResult.findFirst({
    where: { taskId, task: { userId } },
    select: { content: true, data: true, modelId: true, usage: true, finishReason: true, createdAt: true },
  });
}

/** By the `resultRef` of a `done` event: `db:result:` and the task id. It succeeds from that event on. */
export async function resultByRef(resultRef: string, userId: string) {
  return resultOf(resultRef.replace("db:result:", ""), userId);
}

/** The terminal event made again from the rows; nothing while the task has not ended. */
export async function endOf(taskId: string): Promise<TerminalEvent | undefined> {
  const task = await prisma.qstreamdTask.findUnique({ where: { taskId }, include: { result: true } });
  if (!task?.finishedAt) return undefined;
  const head = {
    v: 1, taskId, attempt: task.attempt, seq: 2 ** 31 - 1, requestId: task.requestId ?? "", traceId: task.traceId ?? "",
    timestamp: task.finishedAt.getTime() / 1000,
  } as const;
  if (task.state !== "done" || !task.result) {
    const code = (task.errorCode ?? "INTERNAL") as Code;
    return { ...head, type: "error", stage: "execute", code, message: "", retryable: false };
  }
  const { content, data, contentSha256, modelId, usage, finishReason } = task.result;
  const done: DoneEvent = {
    ...head, type: "done", stage: "write", resultRef: `db:result:${taskId}`, modelId: modelId ?? "", contentSha256,
    usage: usage as unknown as Usage, finishReason: finishReason as DoneEvent["finishReason"], result: data ?? content,
  };
  return done;
}
