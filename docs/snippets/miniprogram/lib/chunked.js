import { frames } from "./frames.js";

/** @type {import("./follow.js").Way} Server-sent events through `enableChunked`; base library 2.20.1 and later. */
export function chunked({ url, token }, after, take, over) {
  const read = frames(take);
  const request = wx.request({
    url: `${url}/events?after=${after}`,
    header: { Authorization: `Bearer ${token}`, Accept: "text/event-stream" },
    enableChunked: true,
    responseType: "arraybuffer",
    timeout: 60000, // more is not kept on devices: a long task is followed through several of these
    success: ({ statusCode }) => over(statusCode === 200 ? undefined : `status ${statusCode}`),
    fail: ({ errMsg }) => over(/timeout/.test(errMsg) ? undefined : errMsg),
  });
  request.onChunkReceived(({ data }) => read(data));
  return () => request.abort();
}
