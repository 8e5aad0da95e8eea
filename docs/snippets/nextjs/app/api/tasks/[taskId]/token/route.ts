import { mayRead } from "@/lib/auth";
import { taskToken } from "@/lib/token";

/** Where the task is at the gateway, and what opens it there. */
export async function GET(request: Request, { params }: { params: Promise<{ taskId: string }> }): Promise<Response> {
  const { taskId } = await params;
  if (!(await mayRead(request, taskId))) return new Response(null, { status: 404 });
  const url = `${process.env.GATEWAY_URL}/api/tasks/${taskId}`;
  return Response.json({ url, token: await taskToken(taskId) }, { headers: { "Cache-Control": "no-store" } });
}
