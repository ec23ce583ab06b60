#!/usr/bin/env python3
"""Verifies a call that oo-sidecar has signed. Copy verify() into your tool."""
import hashlib
import hmac
import re
import sys
import time

TOLERANCE = 300  # seconds


def sign(secret, message):
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def equal(a, b):
    return hmac.compare_digest(a.encode("latin-1", "replace"), b.encode("latin-1", "replace"))


def verify(secret, method, authority, path, headers, body, now=None):
    """Returns what is wrong with the call, or None.

    headers: a dict with names in lower case; path: with its query, not decoded; body: the bytes as they came.
    """
    timestamp = headers.get("x-onceonly-timestamp", "")
    if not re.fullmatch(r"0|[1-9][0-9]{0,17}", timestamp):
        return "no timestamp"
    if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE:
        return "timestamp too far from now"
    if not equal(sign(secret, body), headers.get("x-onceonly-signature", "")):
        return "signature does not fit the body"
    message = "\n".join([
        "oo-v2", timestamp, method, authority, path, hashlib.sha256(body).hexdigest(),
        headers.get("idempotency-key", ""), headers.get("x-onceonly-fence", ""),
        headers.get("x-onceonly-tool", ""), headers.get("x-onceonly-agent-id", ""),
    ])
    want = "kid=" + sign(secret, b"kid")[:8] + ",v2=" + sign(secret, message.encode())
    start, *parts = headers.get("x-onceonly-signature-v2", "").split(",")
    pairs = [",".join(parts[i:i + 2]) for i in range(0, len(parts), 2)]
    if start == "t=" + timestamp and any([equal(want, pair) for pair in pairs]):
        return None
    return "no V2 signature fits the call"


def main(args):
    if len(args) != 5:
        print("usage: verify.py SECRET_FILE BODY_FILE METHOD AUTHORITY PATH < headers", file=sys.stderr)
        return 2
    with open(args[0], "rb") as secret_file, open(args[1], "rb") as body_file:
        secret, body = secret_file.read().rstrip(b"\r\n"), body_file.read()
    headers = {}
    for line in sys.stdin:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    wrong = verify(secret, *args[2:], headers, body)
    if wrong:
        print("not valid:", wrong, file=sys.stderr)
        return 1
    print("valid")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
