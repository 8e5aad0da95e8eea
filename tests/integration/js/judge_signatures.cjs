// The official Receiver's verdict on each token: prints a JSON array of null (accepted) or the reason.
// Environment: TOKENS, a JSON array of {signature, body, url}; QSTASH_CURRENT_SIGNING_KEY, QSTASH_NEXT_SIGNING_KEY.
"use strict";

const { Receiver } = require("@upstash/qstash");

const receiver = new Receiver({
  currentSigningKey: process.env.QSTASH_CURRENT_SIGNING_KEY,
  nextSigningKey: process.env.QSTASH_NEXT_SIGNING_KEY,
  devMode: false,
});

Promise.all(
  JSON.parse(process.env.TOKENS).map((token) =>
    receiver.verify(token).then(
      () => null,
      (error) => error.message || String(error),
    ),
  ),
).then((verdicts) => console.log(JSON.stringify(verdicts)));
