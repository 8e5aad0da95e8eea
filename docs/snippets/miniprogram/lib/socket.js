/** @type {import("./follow.js").Way} A WebSocket: `wss:` and the domain among the "socket domains" of the mini-program. */
export function socket({ url, token }, after, take, over) {
  const task = wx.connectSocket({
    url: `${url.replace(/^http/, "ws")}/ws?after=${after}`,
    header: { Authorization: `Bearer ${token}` },
    fail: ({ errMsg }) => over(errMsg),
  });
  task.onMessage(({ data }) => {
    const event = JSON.parse(String(data));
    take(event, event.id || "");
  });
  task.onError(({ errMsg }) => over(errMsg || "socket"));
  task.onClose(({ code }) => over(code === 1000 || code === 1001 ? undefined : `closed ${code}`));
  return () => task.close({ code: 1000 });
}
