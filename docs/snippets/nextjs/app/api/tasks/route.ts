import { startReview } from "@/app/actions";

/** The same for mini-programs and apps, which can't call a Server Action. */
export async function POST(request: Request): Promise<Response> {
  const { taskId, resume, tier } = await request.json();
  const answer = await startReview(String(taskId), String(resume), tier);
  if (answer.ok) return Response.json(answer, { status: 202 });
  if (answer.code === "DUPLICATE") return Response.json(answer, { status: 409 }); // it runs already: follow it
  return Response.json(answer, { status: 429, headers: { "Retry-After": String(answer.retryAfter) } });
}
