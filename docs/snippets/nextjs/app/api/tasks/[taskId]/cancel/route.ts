import { mayRead } from "@/lib/auth";

/** The gateway ends a task wherever it is; the viewer sees it as the terminal event of the stream. */
export async function POST(request: Request, { params }: { params: Promise<{ taskId: string }> }): Promise<Response> {
  const { taskId } = await params;
  if (!(await mayRead(request, taskId))) return new Response(null, { status: 404 });
  const answer = await fetch(`${process.env.GATEWAY_URL}/api/tasks/${encodeURIComponent(taskId)}/cancel`, {
    method: "POST",
    headers: { Authorization: `Bearer ${process.env.GATEWAY_KEY}` }, // one of the gateway's API_KEYS
    signal: AbortSignal.timeout(10_000),
  });
  return new Response(await answer.text(), { status: answer.status, headers: { "Content-Type": "application/json" } });
}
