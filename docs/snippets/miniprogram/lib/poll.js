/** @import { ViewEvent } from "./qstreamd.js" */
/** @type {import("./follow.js").Way} One question, which the gateway answers with the next events, or with none after 25 s. */
export function poll({ url, token }, after, take, over) {
  const request = wx.request({
    url: `${url}/events?after=${after}&wait=25`,
    header: { Authorization: `Bearer ${token}` },
    timeout: 40000,
    success({ statusCode, data }) {
      if (statusCode !== 200) return over(`status ${statusCode}`);
      const { events } = /** @type {{ events: (ViewEvent & { id: string })[] }} */ (data);
      for (const event of events) take(event, event.id);
      over();
    },
    fail: ({ errMsg }) => over(errMsg),
  });
  return () => request.abort();
}
