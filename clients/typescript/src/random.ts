// Random names, and the digest that PKCE and nonces need, on every platform: also where `crypto.subtle` and
// `crypto.randomUUID` are missing, as on React Native and on pages that are not https.

import { LowtideError } from './errors.js';

const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

/** `bytes` by chance, as base64url: 16 are 22 characters. */
export function token(bytes = 16): string {
  if (typeof globalThis.crypto?.getRandomValues !== 'function') {
    throw new LowtideError('unsupported', 'There is no source of chance.', {
      hint: "On React Native import 'react-native-get-random-values' before anything else."
    });
  }
  return base64url(globalThis.crypto.getRandomValues(new Uint8Array(bytes)));
}

/** Base64url without padding (RFC 4648, section 5). */
export function base64url(bytes: Uint8Array): string {
  let text = '';
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = ((held << 8) | byte) & 0xffff;
    for (bits += 8; bits >= 6; ) text += DIGITS[(held >> (bits -= 6)) & 63];
  }
  return bits > 0 ? text + DIGITS[(held << (6 - bits)) & 63] : text;
}

/** The bytes of base64url, padded or not. */
export function fromBase64url(text: string): Uint8Array<ArrayBuffer> {
  const clean = text.replace(/=+$/, '');
  const bytes = new Uint8Array((clean.length * 6) >> 3);
  let bits = 0;
  let held = 0;
  let at = 0;
  for (const digit of clean) {
    held = ((held << 6) | DIGITS.indexOf(digit)) & 0xffff;
    if ((bits += 6) >= 8) bytes[at++] = (held >> (bits -= 8)) & 255;
  }
  return bytes;
}

/** SHA-256 (FIPS 180-4) of a text's UTF-8. For short texts. */
export function sha256(text: string): Uint8Array {
  const data = new TextEncoder().encode(text);
  const padded = new Uint8Array(((data.length + 72) >> 6) << 6);
  padded.set(data);
  padded[data.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, data.length * 8);
  const [start, k] = constants();
  const state = start.slice();
  const w = new Uint32Array(64);
  const turn = (x: number, n: number) => (x >>> n) | (x << (32 - n));
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15]!, w[i - 2]!];
      const s0 = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3);
      const s1 = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10);
      w[i] = w[i - 16]! + s0 + w[i - 7]! + s1;
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [
      number, number, number, number, number, number, number, number
    ];
    for (let i = 0; i < 64; i++) {
      const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[i]! + w[i]!) | 0;
      const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] = state[i]! + value));
  }
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((value, i) => out.setUint32(4 * i, value));
  return new Uint8Array(out.buffer);
}

/** The fractions of the roots of the first primes: square roots of 8, cube roots of 64. */
function constants(): [Uint32Array, Uint32Array] {
  const [start, k] = [new Uint32Array(8), new Uint32Array(64)];
  for (let found = 0, n = 2; found < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) prime &&= n % d !== 0;
    if (!prime) continue;
    if (found < 8) start[found] = fraction(Math.sqrt(n));
    k[found++] = fraction(Math.cbrt(n));
  }
  return [start, k];
}

function fraction(root: number): number {
  return Math.floor((root - Math.floor(root)) * 2 ** 32);
}
