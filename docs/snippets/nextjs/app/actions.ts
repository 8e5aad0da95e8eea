"use server";
import { userOf } from "@/lib/auth"; // yours: who is it, and may they spend this?
import { submit, type Submitted } from "@/lib/submit";

const QUEUES = {
  auto: ["q_paid_stream", "q_free_stream"],
  paid: ["q_paid_stream"],
  free: ["q_free_stream"],
};

/**
 * For the web, as a Server Action. An action is a public endpoint: what comes in is checked here. `taskId` is made when the form is
 * shown, so that a second click is the same task.
 */
export async function startReview(taskId: string, resume: string, tier: keyof typeof QUEUES): Promise<Submitted> {
  const user = await userOf();
  if (!/^[A-Za-z0-9_-]{16,64}$/.test(taskId) || resume.length > 100_000) throw new Error("bad request");
  const queues = user.paid ? QUEUES[tier] : QUEUES.free;
  return submit("resume-review", { taskId, userId: user.id, variables: { resume, role: "engineer" } }, queues ?? QUEUES.free);
}
