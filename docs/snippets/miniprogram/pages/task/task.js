import { followTask } from "../../lib/follow.js";
import { chunked } from "../../lib/chunked.js";
import { poll } from "../../lib/poll.js";
import { INITIAL_VIEW, textOf } from "../../lib/qstreamd.js";

const SERVER = "https://www.example.com"; // your Next.js: it knows the user, and makes tokens

/** @returns {Promise<import("../../lib/follow.js").Address>} */
const connect = (/** @type {string} */ taskId) =>
  new Promise((resolve, reject) =>
    wx.request({
      url: `${SERVER}/api/tasks/${taskId}/token`,
      header: { Authorization: wx.getStorageSync("session") },
      success: ({ statusCode, data }) => (statusCode === 200 ? resolve(/** @type {any} */ (data)) : reject(statusCode)),
      fail: reject,
    }),
  );

Page({
  data: { view: INITIAL_VIEW, words: "", lost: false },
  stop: () => {},
  onLoad({ taskId }) {
    const way = wx.canIUse("RequestTask.onChunkReceived") ? chunked : poll;
    this.stop = followTask(() => connect(taskId || ""), way, (view, lost) => {
      this.setData({ view, lost, words: textOf(view, "zh-CN") });
    });
  },
  onUnload() {
    this.stop();
  },
  cancel() {
    connect(this.options.taskId || "").then(({ url, token }) =>
      wx.request({ url: `${url}/cancel`, method: "POST", header: { Authorization: `Bearer ${token}` } }),
    );
  },
});
