/**
 * Reads server-sent events from chunks. A chunk may end anywhere, in the middle of a character too, so bytes are kept until a frame is
 * whole; there is no TextDecoder on devices.
 * @param {import("./follow.js").Take} take
 * @returns {(chunk: ArrayBuffer) => void}
 */
export function frames(take) {
  /** @type {number[]} */
  let bytes = [];
  return (chunk) => {
    for (const byte of new Uint8Array(chunk)) {
      bytes.push(byte);
      if (byte !== 10 || bytes[bytes.length - 2] !== 10) continue; // a frame ends with an empty line
      const frame = text(bytes);
      bytes = [];
      const data = /^data: (.*)$/m.exec(frame);
      const id = /^id: (.*)$/m.exec(frame);
      if (data) take(JSON.parse(data[1]), id ? id[1] : "");
    }
  };
}

/** @param {number[]} bytes */
function text(bytes) {
  return decodeURIComponent(bytes.map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join(""));
}
