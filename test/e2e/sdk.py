"""Scenarios of the unmodified OnceOnly SDK against a running sidecar. Prints one JSON object; an AssertionError is a failure.

Usage: sdk.py SCENARIO BASE_URL KEY [ARGUMENT...]
"""
import asyncio, concurrent.futures, json, os, sys, threading, time
import httpx
from onceonly import ApiError, OnceOnly, RateLimitError, UnauthorizedError, ValidationError, idempotent, idempotent_ai

scenario, base, key, more = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
CALLERS = 1000


def client(**kw):
    return OnceOnly(api_key=key, base_url=base, **kw)


def wide():
    """A client with a connection for every caller. The default pool has 100, and who waits for one too long fails open
    without having asked anybody: that is the SDK's own rule and no test of the server."""
    http = httpx.Client(base_url=base + "/v1", timeout=60, headers={"Authorization": "Bearer " + key, "Content-Type": "application/json"},
                        limits=httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS))
    return client(sync_client=http)


def together(n, f):
    """Runs f(0…n-1) on n threads that start at once."""
    gate = threading.Barrier(n)
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        def one(i):
            gate.wait()
            return f(i)
        return list(pool.map(one, range(n)))


class Counter:
    def __init__(self):
        self.n, self.lock = 0, threading.Lock()

    def __call__(self):
        with self.lock:
            self.n += 1
            return self.n


def raises(kind, f):
    try:
        f()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}")


def check_lock():
    with client() as c:
        first = c.check_lock("invoice:käy/1 ä", ttl=5, meta={"a": 1, "d": object}, request_id="my-rid")
        assert first.locked and not first.duplicate and first.ttl == 10 and first.request_id == "my-rid", first
        assert first.key == "invoice:käy/1 ä" and first.first_seen_at is None and first.status_code == 200, first
        again = c.check_lock("invoice:käy/1 ä", ttl=3600)
        assert again.duplicate and not again.locked and again.ttl == 10 and again.first_seen_at.endswith("Z") and again.request_id, again
        assert c.check_lock("another").ttl == 86400
        raises(ValidationError, lambda: c.check_lock("x" * 257))
        raises(ValidationError, lambda: c.check_lock("k", meta={"x": "x" * 3000}))
        raises(UnauthorizedError, lambda: OnceOnly(api_key="once_live_wrong_key", base_url=base).check_lock("k"))
    assert OnceOnly(api_key=key, base_url=base + "/v1/").check_lock("another").duplicate


def check_lock_async():
    async def main():
        async with client() as c:
            results = await asyncio.gather(*(c.check_lock_async("async", ttl=60) for _ in range(50)))
            assert sum(r.locked for r in results) == 1 and sum(r.duplicate for r in results) == 49
            ran = []

            @idempotent(c, key_prefix="async")
            async def send(n):
                ran.append(n)
                return n
            assert await asyncio.gather(send(1), send(1), send(2)) in ([1, None, 2], [None, 1, 2]) and sorted(ran) == [1, 2]
    asyncio.run(main())


def decorated():
    """1,000 concurrent callers of one key: one execution."""
    c, runs = wide(), Counter()

    @idempotent(c, key_prefix="mail", return_value_on_duplicate="skipped")
    def send(to, subject):
        runs()
        return "sent"
    out = together(CALLERS, lambda i: send("alice@example.com", "Welcome"))
    assert runs.n == 1 and out.count("sent") == 1 and out.count("skipped") == CALLERS - 1, runs.n
    assert send("bob@example.com", "Welcome") == "sent" and runs.n == 2
    pooled = client(timeout=120)
    out = together(CALLERS, lambda i: pooled.check_lock("pooled"))
    assert sum(r.locked for r in out) == 1 and all(r.status_code == 200 for r in out)
    return {"callers": CALLERS, "first_seen": len({r.first_seen_at for r in out if r.duplicate})}


def decorated_ai():
    """The same with a lease: one execution, and every caller has its result. Who is told that the store is away asks again."""
    c, runs, away = wide(), Counter(), Counter()

    def patiently(f):
        for _ in range(20):
            try:
                return f()
            except ApiError as e:
                if e.status_code != 503:
                    raise
                away()
                time.sleep(0.25)
        return f()

    @idempotent_ai(c, key_fn=lambda order: f"order:{order}", poll_min=0.2, poll_max=0.5)
    def fulfil(order):
        time.sleep(0.2)
        return {"order": order, "run": runs()}
    out = together(CALLERS, lambda i: patiently(lambda: fulfil(7)))
    assert runs.n == 1, runs.n
    assert all(r.ok and r.status == "completed" and r.result == {"order": 7, "run": 1} for r in out)
    return {"away": away.n}


def run_fn():
    with client() as c:
        r = c.ai.run_fn("fn", lambda: {"x": 1}, metadata={"run_id": "r"})
        assert r.ok and r.status == "completed" and r.result == {"x": 1} and len(r.result_hash) == 64 and r.done_at, r
        again = c.ai.run_fn("fn", lambda: 1 / 0)
        assert again.ok and again.result == {"x": 1}, again
        raises(ZeroDivisionError, lambda: c.ai.run_fn("bad", lambda: 1 / 0, error_code="zero"))
        failed = c.ai.run_fn("bad", lambda: {"never": 1})
        assert not failed.ok and failed.status == "failed" and failed.error_code == "zero", failed
        assert c.ai.run_fn("none", lambda: None).result is None
        lease = c.ai.lease("held", ttl=60)
        assert lease["status"] == "acquired" and lease["version"] == 1 and lease["charged"] == 1
        held = c.ai.run_fn("held", lambda: 1 / 0, wait_on_conflict=False)
        assert held.status == "polling" and held.error_code == "not_acquired", held
        poll = c.ai.lease("held")
        assert poll["lease_id"] is None and c.ai.status("held").lease_id is None, poll
        for step in (c.ai.extend, c.ai.complete, c.ai.cancel):
            e = raises(ApiError, lambda: step("held", "lease_of_nobody"))
            assert e.status_code == 409 and e.detail["error"] == "lease_mismatch", e.detail
        assert c.ai.extend("held", lease["lease_id"], ttl=100)["version"] == 2
        c.ai.complete("held", lease["lease_id"], result={"by": "hand"})
        e = raises(ApiError, lambda: c.ai.fail("held", lease["lease_id"], error_code="late"))
        assert e.detail["error"] == "already_completed", e.detail
        assert c.ai.result("held").result == {"by": "hand"}
        raises(ApiError, lambda: c.ai.status("unknown"))


def work_and_die():
    """A worker that does its work and dies before it can say so."""
    c = client()
    print(json.dumps({"working": True}), flush=True)
    c.ai.run_fn("crash", lambda: os._exit(9), ttl=10)


def take_over():
    """The next worker: it waits while the dead one's lease holds, and then does the work again."""
    with client() as c:
        st = c.ai.status("crash")
        assert st.status == "in_progress" and st.lease_id is None and 0 <= st.ttl_left <= 10, st
        r = c.ai.wait("crash", timeout=30, poll_max=0.5)
        assert not r.ok and r.status == "failed" and r.error_code == "lease_expired", r
        r = c.ai.run_fn("crash", lambda: {"by": "the second"}, ttl=10)
        assert r.ok and r.result == {"by": "the second"}, r
        return {"version": c.ai.status("crash").version}


def tools():
    """Governed calls. The policy allows charge and mail, blocks refund, and has $2 a day."""
    with client() as c:
        call = lambda tool, **kw: c.ai.run_tool(agent_id="sdk-agent", tool=tool, **kw)
        first = call("charge", args={"amount": 99.5}, spend_usd=1.0)
        assert first.ok and first.allowed and first.decision == "executed" and first.policy_reason == "ok" and first.result["id"], first
        again = call("charge", args={"amount": 99.5}, run_id="run x/y")
        assert again.allowed and again.decision == "dedup" and again.policy_reason == "tool_idempotency" and again.result == first.result, again
        for tool, kw, reason in (
            ("refund", {}, "tool_explicitly_blocked"),
            ("other", {}, "tool_not_in_allowed_list"),
            ("charge", {"args": {"amount": 1}, "spend_usd": 1.5}, "max_spend_usd_per_day_exceeded"),
        ):
            r = call(tool, **kw)
            assert not r.ok and not r.allowed and r.decision == "blocked" and r.policy_reason == reason and r.result is None, r
            assert r.risk_level in ("low", "medium", "high"), r
        capped = [call("mail", args={"n": n}) for n in range(3)]
        assert [r.allowed for r in capped] == [True, True, False] and capped[2].policy_reason == "max_calls_per_tool_exceeded", capped
        bad = call("broken")
        assert not bad.allowed and bad.policy_reason == "tool_error" and bad.result["error"]["status"] == 500, bad
        e = raises(ApiError, lambda: c.ai.run_tool(agent_id="free-agent", tool="nobody.knows", args={}))
        assert e.status_code == 404 and e.detail["error"] == "tool_not_found", e.detail
        out = together(100, lambda i: call("charge", args={"amount": 5}))
        assert sum(r.decision == "executed" for r in out) == 1 and all(r.allowed for r in out)

        async def main():
            async with client() as a:
                r = await a.ai.run_tool_async(agent_id="sdk-agent", tool="charge", args={"amount": 99.5})
                assert r.allowed and r.decision == "dedup", r
        asyncio.run(main())


def stopped_agent():
    with client() as c:
        r = c.ai.run_tool(agent_id="sdk-agent", tool="charge", args={"amount": 77})
        return {"allowed": r.allowed, "reason": r.policy_reason}


def as_another():
    """With an agent's key."""
    with client() as c:
        raises(UnauthorizedError, lambda: c.ai.run_tool(agent_id="free-agent", tool="charge", args={}))
        assert c.check_lock("agents-lock").locked


def jobs():
    with client() as c:
        r = c.ai.run_and_wait("empty", metadata={"demo": True}, timeout=20)
        assert r.ok and r.status == "completed" and r.result == {"ok": True, "actions": []}, r
        actions = [{"tool": "charge", "args": {"amount": 1}}, {"tool": "charge", "args": {"amount": 2}}]
        r = c.ai.run_and_wait("nightly", metadata={"agent_id": "free-agent", "actions": actions}, run_id="run 1/2", timeout=20, poll_max=1)
        assert r.ok and [a["decision"] for a in r.result["actions"]] == ["executed", "executed"], r
        again = c.ai.run("nightly")
        assert again.status == "completed" and again.result == r.result and again.lease_id is None and again.charged == 0, again
        r = c.ai.run_and_wait("blocked", metadata={"agent_id": "sdk-agent", "actions": [{"tool": "refund"}]}, timeout=20)
        assert not r.ok and r.status == "failed" and r.error_code == "policy_blocked", r

        async def main():
            async with client() as a:
                r = await a.ai.run_and_wait_async("nightly")
                assert r.ok and len(r.result["actions"]) == 2, r
                try:
                    await a.ai.run_fn_async("async-fn", lambda: {"x": 1})
                except asyncio.CancelledError:
                    pass  # the SDK always raises it here, after complete was sent
                r = await a.ai.result_async("async-fn")
                assert r.ok and r.result == {"x": 1}, r
        asyncio.run(main())


def start_job():
    """A job whose second action hangs; whoever started it goes."""
    with client() as c:
        actions = [{"tool": "charge", "args": {"job": 1}}, {"tool": "slow", "args": {"job": 2}}, {"tool": "charge", "args": {"job": 3}}]
        run = c.ai.run("long", ttl=60, metadata={"agent_id": "free-agent", "actions": actions})
        assert run.status == "acquired" and run.version == 1, run


def end_of_job():
    with client() as c:
        r = c.ai.wait("long", timeout=30, poll_max=0.5)
        return {"ok": r.ok, "status": r.status, "code": r.error_code, "decisions": [a["decision"] for a in r.result["actions"]]}


def stopped():
    """The sidecar is stopped: check_lock goes on by default, and does not where it was told not to."""
    r = client().check_lock("stopped")
    assert r.locked and r.request_id == "fail-open" and r.status_code == 0, r
    raises(httpx.RequestError, lambda: client(fail_open=False).check_lock("stopped"))
    raises(httpx.RequestError, lambda: client().ai.run_tool(agent_id="a", tool="charge"))
    ran = []
    raises(httpx.RequestError, lambda: client().ai.run_fn("k", lambda: ran.append(1)))
    assert not ran


def limited():
    """A key with a rate: 429 is no lock, and with retries it is waited for."""
    c = client()
    e = None
    for n in range(5):
        try:
            assert c.check_lock(f"limited {n}").locked
        except RateLimitError as err:
            e = err
            break
    assert e is not None and e.retry_after_sec >= 1, e
    assert client(max_retries_429=3, timeout=30).check_lock("limited patiently").locked


print(json.dumps(globals()[scenario]() or {}))
