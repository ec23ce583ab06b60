"""One Python client of the matrix: clients.py CLIENT PLAN. What it prints is read by clients_test.go."""
import asyncio, json, sys

client, plan = sys.argv[1], json.loads(sys.argv[2])


def tell(route, step, **what):
    print(json.dumps({"route": route, "step": step, **what}), flush=True)


def each(call, stream):
    """call(url, body) gives status, text and the replay header; stream(url, body) yields pieces of bytes."""
    for route, base in plan["routes"].items():
        body = json.dumps({"client": plan["label"], "route": route})
        try:
            for _ in range(2):
                status, text, replayed = call(base + "/charge", body)
                tell(route, "call", status=status, text=text, replayed=replayed == "true")
            status, text, _ = call(base + "/blocked", body)
            tell(route, "refusal", status=status, text=text)
            whole = b""
            for piece in stream(base + "/stream", body):
                if piece and not whole:
                    tell(route, "piece", text=piece.decode())
                whole += piece
            tell(route, "streamed", text=whole.decode())
        except Exception as e:
            tell(route, "error", text=f"{type(e).__name__}: {e}"[:300])


HEADERS = {"Content-Type": "application/json"}


def by_urllib():
    import urllib.error, urllib.request

    def open_(url, body):
        try:
            return urllib.request.urlopen(urllib.request.Request(url, body.encode(), HEADERS), timeout=30)
        except urllib.error.HTTPError as refused:
            return refused

    def call(url, body):
        with open_(url, body) as r:
            return r.status, r.read().decode(), r.headers.get("Idempotent-Replayed")

    def stream(url, body):
        with open_(url, body) as r:
            while piece := r.read1(65536):
                yield piece

    each(call, stream)


def by_requests():
    import requests

    def call(url, body):
        r = requests.post(url, body, headers=HEADERS, timeout=30)
        return r.status_code, r.text, r.headers.get("Idempotent-Replayed")

    def stream(url, body):
        with requests.post(url, body, headers=HEADERS, timeout=30, stream=True) as r:
            yield from r.iter_content(None)

    each(call, stream)


def by_httpx():
    import httpx

    def call(url, body):
        r = httpx.post(url, content=body, headers=HEADERS, timeout=30)
        return r.status_code, r.text, r.headers.get("Idempotent-Replayed")

    def stream(url, body):
        with httpx.stream("POST", url, content=body, headers=HEADERS, timeout=30) as r:
            yield from r.iter_raw()

    each(call, stream)


def by_aiohttp(**how):
    import aiohttp

    loop = asyncio.new_event_loop()

    async def whole(url, body):
        async with aiohttp.ClientSession(**how) as s, s.post(url, data=body, headers=HEADERS) as r:
            return r.status, await r.text(), r.headers.get("Idempotent-Replayed")

    async def pieces(url, body):
        async with aiohttp.ClientSession(**how) as s, s.post(url, data=body, headers=HEADERS) as r:
            async for piece in r.content.iter_any():
                yield piece

    def stream(url, body):
        it = pieces(url, body)
        while True:
            try:
                yield loop.run_until_complete(anext(it))
            except StopAsyncIteration:
                return

    each(lambda url, body: loop.run_until_complete(whole(url, body)), stream)


{
    "urllib": by_urllib,
    "requests": by_requests,
    "httpx": by_httpx,
    "aiohttp": by_aiohttp,
    "aiohttp-trust-env": lambda: by_aiohttp(trust_env=True),
}[client]()
