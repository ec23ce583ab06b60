"""Programs as users write them with the unmodified OnceOnly SDK: a LangChain tool, a FastAPI webhook, and all async calls.
Prints one JSON object; an AssertionError is a failure.

Usage: sdk_apps.py SCENARIO BASE_URL KEY [AGENT]
"""
import asyncio, contextlib, datetime, json, socket, sys, threading
import httpx
from onceonly import ApiError, OnceOnly, idempotent_ai

scenario, base, key = sys.argv[1:4]


def client(**kw):
    return OnceOnly(api_key=key, base_url=base, **kw)


def langchain():
    """make_idempotent_tool around a real tool, with one argument and with several, called and awaited."""
    from langchain_core.tools import StructuredTool, tool
    from onceonly.integrations.langchain import make_idempotent_tool
    ran = []

    @tool
    def refund(user_id: str, amount: int) -> str:
        """Refunds a user."""
        ran.append((user_id, amount))
        return f"refunded {amount} to {user_id}"

    @tool
    def greet(name: str) -> str:
        """Greets."""
        ran.append(name)
        return "hello " + name

    async def wait(n: int) -> int:
        """Waits."""
        ran.append(n)
        return n

    with client() as c:
        once = make_idempotent_tool(refund, client=c, key_prefix="agent:bot", meta={"by": "test"})
        assert once.name == "refund" and once.args_schema is refund.args_schema, once
        assert once.invoke({"user_id": "u_100", "amount": 50}) == "refunded 50 to u_100"
        again = once.invoke({"amount": 50, "user_id": "u_100"})
        assert again == "Action 'refund' skipped (idempotency key duplicate).", again
        assert once.invoke({"user_id": "u_100", "amount": 51}) == "refunded 51 to u_100"
        # the key is the one that the SDK's page of derivations has
        assert c.check_lock("agent:bot:refund:5313ba5eeb951ca7238066d9d35477c85ecd974a65687f9db836dce1eeb2c6dd").duplicate
        word = make_idempotent_tool(greet, client=c)
        assert word.invoke("hello") == "hello hello" and "skipped" in word.invoke("hello")
        assert c.check_lock("tool:greet:6c3f44f414b670a953c7c40d40d52146d8d186de35dc24b8547c200873dd5240").duplicate
    assert ran == [("u_100", 50), ("u_100", 51), "hello"], ran

    async def main():
        async with client() as c:
            once = make_idempotent_tool(StructuredTool.from_function(coroutine=wait, name="wait", description="waits"), client=c)
            out = await asyncio.gather(*(once.ainvoke({"n": 7}) for _ in range(30)))
            assert out.count(7) == 1 and sum("skipped" in str(o) for o in out) == 29, out
    asyncio.run(main())
    assert ran.count(7) == 1, ran


def app(processed, **kw):
    """The webhook of the SDK's README."""
    from fastapi import Depends, FastAPI
    api = FastAPI()

    def get_onceonly() -> OnceOnly:
        return client(**kw)

    @api.post("/webhooks/stripe")
    async def stripe_webhook(event: dict, client: OnceOnly = Depends(get_onceonly)):
        result = await client.check_lock_async(key=f"stripe:{event['id']}", ttl=7200, meta={"type": event["type"]})
        if result.duplicate:
            return {"status": "duplicate"}
        processed.append(event["id"])
        return {"status": "processed"}
    return api


@contextlib.contextmanager
def served(api):
    import uvicorn
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/webhooks/stripe"
    finally:
        server.should_exit = True
        thread.join(10)


def deliver(url, ids):
    """Delivers an event for each id, all at once, as a provider that was not answered in time."""
    async def main():
        async with httpx.AsyncClient(timeout=30, transport=httpx.AsyncHTTPTransport(retries=3)) as http:
            answers = await asyncio.gather(*(http.post(url, json={"id": i, "type": "charge.succeeded"}) for i in ids))
            return [(a.status_code, a.json()["status"] if a.status_code == 200 else None) for a in answers]
    return asyncio.run(main())


def webhook():
    processed = []
    with served(app(processed, timeout=60)) as url:  # with the SDK's 5 s a busy machine makes it fail open, which is another test
        out = deliver(url, ["evt_1"] * 40 + ["evt_2"])
        assert out.count((200, "processed")) == 2 and out.count((200, "duplicate")) == 39, out
        assert deliver(url, ["evt_1"]) == [(200, "duplicate")]
    assert sorted(processed) == ["evt_1", "evt_2"], processed


def webhook_stopped():
    """The sidecar is stopped: by default the event is processed each time it comes, with fail_open=False never."""
    processed = []
    with served(app(processed)) as url:
        assert deliver(url, ["evt_3"]) + deliver(url, ["evt_3"]) == [(200, "processed")] * 2
    with served(app(processed, fail_open=False)) as url:
        assert deliver(url, ["evt_4"]) == [(500, None)]
    assert processed == ["evt_3", "evt_3"], processed


def twins():
    """Every async call there is."""
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")

    async def raises(status, awaited):
        try:
            await awaited
        except ApiError as e:
            assert e.status_code == status, e
            return
        raise AssertionError(f"no {status}")

    async def main():
        async with client() as c:
            ai, gov = c.ai, c.gov
            first, again = await c.check_lock_async("twin"), await c.check_lock_async("twin")
            assert first.locked and again.duplicate and again.first_seen_at
            lease = await ai.lease_async("twin", ttl=60)
            assert lease["status"] == "acquired" and (await ai.lease_async("twin"))["lease_id"] is None
            assert (await ai.extend_async("twin", lease["lease_id"], ttl=90))["version"] == 2
            await raises(409, ai.complete_async("twin", "lease_of_nobody"))
            await ai.complete_async("twin", lease["lease_id"], result={"x": 1})
            assert (await ai.status_async("twin")).status == "completed" and (await ai.wait_async("twin")).result == {"x": 1}
            await raises(409, ai.fail_async("twin", lease["lease_id"], error_code="late"))
            other = await ai.lease_async("canceled")
            await ai.cancel_async("canceled", other["lease_id"], reason="no")
            assert (await ai.status_async("canceled")).error_code == "canceled"
            failing = await ai.lease_async("failed")
            await ai.fail_async("failed", failing["lease_id"], error_code="boom")
            r = await ai.result_async("failed")
            assert not r.ok and r.error_code == "boom", r
            assert (await ai.run_async("empty job")).status in ("acquired", "completed")
            assert (await c.ai_run_and_wait_async("empty job")).ok
            ran = []

            @idempotent_ai(c, key_fn=lambda n: f"twin:{n}")
            async def work(n):
                ran.append(n)
                return {"n": n}
            try:
                await work(1)
            except asyncio.CancelledError:
                pass  # the SDK always raises it here, after complete was sent
            r = await work(1)
            assert r.ok and r.result == {"n": 1} and ran == [1], (r, ran)

            assert (await gov.policy_from_template_async("twin", "strict", {"max_actions_per_hour": 9})).max_actions_per_hour == 9
            assert "twin" in {p.agent_id for p in await gov.list_policies_async()}
            assert (await gov.upsert_policy_async({"blocked_tools": ["mail"]}, agent_id="twin")).blocked_tools == ["mail"]
            assert (await gov.get_policy_async("twin")).max_actions_per_hour == 9
            made = await gov.create_tool_async({"name": "twin.tool", "url": "https://example.com/x", "auth": {"type": "hmac_sha256", "secret": "whisper_key"}})
            assert made["has_secret"] and "twin.tool" in {t["name"] for t in await gov.list_tools_async("all")}
            assert (await gov.toggle_tool_async("twin.tool", enabled=False))["enabled"] is False
            assert (await gov.get_tool_async("twin.tool"))["enabled"] is False
            r = await ai.run_tool_async(agent_id="twin", tool="mail", args={})
            assert r.policy_reason == "tool_explicitly_blocked", r
            r = await ai.run_tool_async(agent_id="twin", tool="charge", args={"twin": 1})
            assert r.allowed and r.decision == "executed", r
            assert not (await gov.disable_agent_async("twin", "test")).is_enabled and (await gov.enable_agent_async("twin")).is_enabled
            logs = await gov.agent_logs_async("twin", limit=10)
            assert [l.decision for l in logs] == ["executed", "blocked"], logs
            m = await gov.agent_metrics_async("twin", "hour")
            assert (m.total_actions, m.blocked_actions) == (1, 1), m
            assert (await gov.delete_tool_async("twin.tool"))["deleted"] == "twin.tool"

            assert (await c.me_async())["plan"] == "agency"
            assert (await c.update_notifications_async(run_failure_notifications_enabled=False))["run_failure_notifications_enabled"] is False
            assert (await c.usage_async("make"))["usage"] == 1 and (await c.usage_all_async())["ai"]["usage"] >= 5
            rows = await c.metrics_async(today, today)
            assert (rows if isinstance(rows, list) else rows["data"])[0]["ai_acquired"] >= 4, rows
            assert (await c.post_event_async(run_id="twin/run", type="note"))["ok"]
            assert (await c.get_run_timeline_async("twin/run"))["total"] == 1
            assert await c.events_async(limit=5, offset=1)
    asyncio.run(main())


print(json.dumps(globals()[scenario]() or {}))
