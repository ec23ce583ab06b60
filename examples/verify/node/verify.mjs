#!/usr/bin/env node
// Verifies a call that oo-sidecar has signed. Copy verify() into your tool.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const TOLERANCE = 300; // seconds

const sign = (secret, message) => createHmac('sha256', secret).update(message).digest('hex');

function equal(a, b) {
  const x = Buffer.from(a), y = Buffer.from(b);
  return x.length === y.length && timingSafeEqual(x, y);
}

// verify returns what is wrong with the call, or null. headers: names in lower case, as in node:http;
// path: with its query, not decoded; body: the bytes as they came.
export function verify(secret, { method, authority, path, headers, body }, now = Date.now() / 1000) {
  const timestamp = headers['x-onceonly-timestamp'] ?? '';
  if (!/^(0|[1-9][0-9]{0,14})$/.test(timestamp)) return 'no timestamp';
  if (Math.abs(now - Number(timestamp)) > TOLERANCE) return 'timestamp too far from now';
  if (!equal(sign(secret, body), headers['x-onceonly-signature'] ?? '')) return 'signature does not fit the body';
  const message = [
    'oo-v2', timestamp, method, authority, path, createHash('sha256').update(body).digest('hex'),
    headers['idempotency-key'] ?? '', headers['x-onceonly-fence'] ?? '',
    headers['x-onceonly-tool'] ?? '', headers['x-onceonly-agent-id'] ?? '',
  ].join('\n');
  const want = `kid=${sign(secret, 'kid').slice(0, 8)},v2=${sign(secret, message)}`;
  const [start, ...parts] = (headers['x-onceonly-signature-v2'] ?? '').split(',');
  if (start !== `t=${timestamp}`) return 'no V2 signature fits the call';
  for (let i = 0; i < parts.length; i += 2) {
    if (equal(want, parts.slice(i, i + 2).join(','))) return null;
  }
  return 'no V2 signature fits the call';
}

function main([secretFile, bodyFile, method, authority, path, ...more]) {
  if (path === undefined || more.length > 0) {
    console.error('usage: verify.mjs SECRET_FILE BODY_FILE METHOD AUTHORITY PATH < headers');
    return 2;
  }
  const headers = {};
  for (const line of readFileSync(0, 'utf8').split('\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) headers[line.slice(0, colon).trim().toLowerCase()] = line.slice(colon + 1).trim();
  }
  const secret = readFileSync(secretFile, 'utf8').replace(/[\r\n]+$/, '');
  const wrong = verify(secret, { method, authority, path, headers, body: readFileSync(bodyFile) });
  if (wrong) {
    console.error(`not valid: ${wrong}`);
    return 1;
  }
  console.log('valid');
  return 0;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = main(process.argv.slice(2));
}
