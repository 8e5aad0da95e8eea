"use client";
import { useCallback, useEffect, useState } from "react";
import { type Connection, followTask } from "../lib/follow";
import { INITIAL_VIEW, type TaskView } from "../lib/qstreamd";

export interface Task {
  view: Readonly<TaskView>;
  connection: Connection;
  cancel: () => Promise<void>;
}

/** A task as it goes. `base` is where its events are: our own route, or the gateway's. */
export function useTask(taskId: string, base = `/api/tasks/${taskId}`): Task {
  const [shown, show] = useState<Omit<Task, "cancel">>({ view: INITIAL_VIEW, connection: "opening" });
  useEffect(() => {
    show({ view: INITIAL_VIEW, connection: "opening" });
    return followTask(
      (after) => `${base}/events?after=${after}`,
      (view, connection) => show({ view, connection }),
    );
  }, [base]);
  const cancel = useCallback(async () => {
    const answer = await fetch(`${base}/cancel`, { method: "POST" });
    if (!answer.ok) throw new Error(`cancel: ${answer.status}`); // that it was cancelled comes as an event
  }, [base]);
  return { ...shown, cancel };
}
