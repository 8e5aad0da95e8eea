import { SignJWT } from "jose";

/** Opens one task at the gateway: for a mini-program, an app, or an EventSource that goes to the gateway. */
export function taskToken(taskId: string, lifetime = "10m"): Promise<string> {
  const secret = new TextEncoder().encode(process.env.TASK_TOKEN_SECRET);
  return new SignJWT({ scope: "task" })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(taskId)
    .setExpirationTime(lifetime)
    .sign(secret);
}
