"""Calls a tool from 64 threads with an unmodified `requests`. Prints one JSON array: [status, replayed, sha256 of body].

Usage: requests.py URL CONTENT_TYPE N TEMPLATE     (# in TEMPLATE becomes the call's number, or stays 0 with N < 0)
A proxy is taken from the environment, as requests does by itself.
"""
import concurrent.futures, hashlib, json, sys, threading
import requests

url, media, n, template = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
local = threading.local()


def call(i):
    if not hasattr(local, "session"):
        local.session = requests.Session()
        local.session.headers["Authorization"] = "Bearer sk_test_123"
    body = template.replace("#", str(i if n > 0 else 0))
    r = local.session.post(url, data=body.encode(), headers={"Content-Type": media}, timeout=60)
    return [r.status_code, r.headers.get("Idempotent-Replayed", ""), hashlib.sha256(r.content).hexdigest()]


with concurrent.futures.ThreadPoolExecutor(64) as pool:
    json.dump(list(pool.map(call, range(abs(n)))), sys.stdout)
