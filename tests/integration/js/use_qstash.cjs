// Uses every part of the official client that the fake QStash stands in for; prints what it was told, as JSON.
// Environment: QSTASH_URL, QSTASH_TOKEN, RECEIVER (base URL of whoever is called; nothing is delivered before this has ended).
"use strict";

const { Client } = require("@upstash/qstash");

const receiver = process.env.RECEIVER;
const baseUrl = process.env.QSTASH_URL;
const client = new Client({ baseUrl, token: process.env.QSTASH_TOKEN, devMode: false, retry: false, enableTelemetry: false });

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

  const queue = client.queue({ queueName: "q_paid_stream" });
  for (const n of [1, 2]) {
    told.enqueued = await queue.enqueueJSON({ url: `${receiver}/queued`, body: { n } });
  }
  await client.publish({ url: `${receiver}/never`, body: "x", notBefore: 4102444800 });

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
