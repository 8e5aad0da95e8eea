// Uses every part of the official client that the fake QStash stands in for; prints what it was told, as JSON.
// Environment: QSTASH_URL, QSTASH_TOKEN, RECEIVER (base URL that answers 200, except below /fail: 500).
"use strict";

const { Client } = require("@upstash/qstash");

const receiver = process.env.RECEIVER;
const baseUrl = process.env.QSTASH_URL;
const client = new Client({ baseUrl, token: process.env.QSTASH_TOKEN, devMode: false, retry: false, enableTelemetry: false });

async function control(path, body) {
  const answer = await fetch(`${baseUrl}/_fake/${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers: { Authorization: `Bearer ${process.env.QSTASH_TOKEN}` },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? null, message: error.message };
  }
}

async function main() {
  const told = {};
  const log = console.error;
  console.error = () => {}; // the client complains aloud about refusals that are wanted here

  told.published = await client.publishJSON({
    url: `${receiver}/published?x=1`,
    body: { n: 1, text: "é✓" },
    headers: { "X-Task-Id": "t1" },
    label: "first",
    timeout: "30s",
  });
  told.duplicate = [];
  for (let i = 0; i < 2; i++) {
    told.duplicate.push(await client.publishJSON({ url: `${receiver}/once`, body: {}, deduplicationId: "d1" }));
  }
  await client.publishJSON({
    url: `${receiver}/fail/chosen`,
    body: { retry: true },
    retries: 2,
    retryDelay: "min(60000, pow(2, retried) * 1000)",
    failureCallback: `${receiver}/failed`,
  });
  await client.publishJSON({
    url: `${receiver}/flow`,
    body: {},
    delay: 10,
    flowControl: { key: "relay", rate: 50, period: "1s", parallelism: 3 },
  });
  await control("advance", { seconds: 60 });
  told.flow = await client.flowControl.get("relay");

  const queue = client.queue({ queueName: "q_paid_stream" });
  await queue.upsert({ parallelism: 1 });
  await queue.pause();
  for (const n of [1, 2]) {
    told.enqueued = await queue.enqueueJSON({ url: `${receiver}/queued`, body: { n } });
  }
  await control("advance", { seconds: 1 });
  told.queue = await queue.get();
  told.waiting = await client.messages.get(told.enqueued.messageId);
  await queue.resume();
  await control("settled");
  told.queues = (await queue.list()).map((each) => each.name);
  await queue.delete();

  told.batch = await client.batchJSON([
    { url: `${receiver}/batch`, body: { n: 1 } },
    { url: `${receiver}/batch`, body: { n: 2 }, queueName: "other", delay: 1 },
  ]);
  await control("advance", { seconds: 1 });

  const late = await client.publish({ url: `${receiver}/never`, body: "x", delay: "1h" });
  told.cancelled = await client.messages.cancel(late.messageId);
  await client.publish({ url: `${receiver}/never`, body: "x", notBefore: 4102444800 });
  told.cancelledAll = await client.messages.cancel({ all: true });

  await client.schedules.create({
    destination: `${receiver}/scheduled`,
    cron: "* * * * *",
    scheduleId: "every-minute",
    body: JSON.stringify({ tick: true }),
  });
  await control("advance", { seconds: 120 });
  told.schedules = await client.schedules.list();
  await client.schedules.pause({ schedule: "every-minute" });
  told.paused = (await client.schedules.get("every-minute")).isPaused;
  await client.schedules.delete("every-minute");

  told.dead = (await client.dlq.listMessages()).messages;
  told.retried = await client.dlq.retry(told.dead[0].dlqId);
  await control("advance", { seconds: 60 });
  told.deadAgain = (await client.dlq.listMessages({ filter: { url: `${receiver}/fail/chosen` } })).messages;
  told.deleted = await client.dlq.delete({ all: true });

  await client.urlGroups.addEndpoints({ name: "group", endpoints: [{ name: "a", url: `${receiver}/a` }] });
  told.group = await client.publishJSON({ urlGroup: "group", body: {} });
  await control("settled");

  told.logs = (await client.logs({ filter: { messageId: told.published.messageId } })).logs.map((event) => event.state);
  await control("publishing", { status: 429 });
  told.limited = await failure(client.publishJSON({ url: `${receiver}/x`, body: {} }));
  told.stranger = await failure(client.publishJSON({ url: "https://example.com/x", body: {} }));
  const thief = new Client({ baseUrl, token: "wrong", devMode: false, retry: false });
  told.thief = await failure(thief.publishJSON({ url: `${receiver}/x`, body: {} }));

  console.error = log;
  console.log(JSON.stringify(told));
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
