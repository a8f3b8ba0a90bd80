// Chance and digests, where the platform has them to compare with.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { base64url, fromBase64url, sha256, token } from '../dist/random.js';

test('the digest is SHA-256, at every length around a block', () => {
  for (let length = 0; length < 140; length++) {
    const text = 'ü'.repeat(length % 3) + 'x'.repeat(length);
    assert.deepEqual(Buffer.from(sha256(text)), createHash('sha256').update(text).digest(), String(length));
  }
});

test('base64url is what Node writes, and is read back', () => {
  for (let length = 0; length < 70; length++) {
    const bytes = randomBytes(length);
    assert.equal(base64url(bytes), bytes.toString('base64url'));
    assert.deepEqual(Buffer.from(fromBase64url(bytes.toString('base64url'))), bytes);
    assert.deepEqual(Buffer.from(fromBase64url(bytes.toString('base64').replaceAll('+', '-').replaceAll('/', '_'))), bytes);
  }
});

test('names are long, by chance and never the same', () => {
  const names = new Set(Array.from({ length: 1000 }, () => token()));
  assert.equal(names.size, 1000);
  for (const name of names) assert.match(name, /^[\w-]{22}$/);
});
