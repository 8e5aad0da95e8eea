import { INITIAL_VIEW, reduce } from "./qstreamd.js";

/** @import { TaskView, ViewEvent } from "./qstreamd.js" */
/** @typedef {{ url: string, token: string }} Address where the task is at the gateway, and what opens it */
/** @typedef {(event: ViewEvent, id: string) => void} Take */
/** @typedef {(problem?: string) => void} Over called once when a connection has ended; with a problem if it was one */
/** @typedef {(address: Address, after: string, take: Take, over: Over) => () => void} Way opens one connection; returns how to close it */

const PAUSE_MAX_MS = 20000;
const AGAIN_MS = 100; // after a connection that ended well; text comes up to twenty times a second
const TRIES = 12; // one to two minutes

/**
 * Calls `on` with the view after every change until the task has ended; returns a function that stops. `connect` asks your server for a
 * token, at first and after every problem. `way` is `poll`, `chunked` or `socket`.
 * @param {() => Promise<Address>} connect
 * @param {Way} way
 * @param {(view: Readonly<TaskView>, lost: boolean) => void} on
 */
export function followTask(connect, way, on) {
  /** @type {Readonly<TaskView>} */
  let view = INITIAL_VIEW;
  let close = () => {};
  let failures = 0;
  let round = 0; // whatever belongs to an earlier one is late
  let timer = 0;
  /** @type {Address | undefined} */
  let address;

  async function open() {
    const mine = ++round;
    clearTimeout(timer);
    close();
    close = () => {};
    /** @type {Over} */
    const over = (problem) => {
      if (mine !== round) return;
      round += 1; // a socket tells its end twice, as an error and as a close
      failures = problem ? failures + 1 : 0;
      if (problem) address = undefined; // its token may have run out
      if (failures > TRIES) return on(view, true);
      timer = setTimeout(open, problem ? Math.random() * Math.min(PAUSE_MAX_MS, 250 * 2 ** failures) : AGAIN_MS);
    };
    /** @type {Take} */
    const take = (event, id) => {
      if (mine !== round) return;
      failures = 0;
      view = reduce(view, event, id);
      if (view.ended) stop();
      on(view, false);
    };
    try {
      address ??= await connect();
      if (mine === round) close = way(address, view.cursor, take, over);
    } catch (error) {
      over(String(error));
    }
  }

  function stop() {
    round += 1;
    clearTimeout(timer);
    close();
    wx.offAppShow(shown);
  }

  /** In the background WeChat cuts every connection after five seconds. */
  function shown() {
    failures = 0;
    open();
  }

  wx.onAppShow(shown);
  open();
  return stop;
}
