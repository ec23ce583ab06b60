"""The governance, account and timeline calls of the unmodified OnceOnly SDK. Prints nothing; an AssertionError is a failure.

Usage: sdk_govern.py BASE_URL KEY AGENT_KEY TOOL_URL
"""
import asyncio, datetime, sys
from onceonly import ApiError, OnceOnly, UnauthorizedError, ValidationError

base, key, agent_key, tool_url = sys.argv[1:5]
today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")


def raises(kind, f):
    try:
        f()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}")


def policies(c):
    p = c.gov.upsert_policy({"agent_id": "shop", "max_actions_per_hour": 10, "max_spend_usd_per_day": 5.5, "blocked_tools": ["refund"],
                             "max_calls_per_tool": {"charge": 2}, "pricing_rules": [{"tool": "mail", "price_usd": 0.01}]})
    assert p.agent_id == "shop" and p.max_actions_per_hour == 10 and p.max_spend_usd_per_day == 5.5 and p.max_calls_per_tool == {"charge": 2}, p
    p = c.gov.upsert_policy({"allowed_tools": ["registered", "charge"]}, agent_id="shop")
    assert p.allowed_tools == ["registered", "charge"] and p.max_actions_per_hour == 10 and p.blocked_tools == ["refund"], p
    assert p.pricing_rules[0]["price_usd"] == 0.01 if isinstance(p.pricing_rules[0], dict) else p.pricing_rules[0].price_usd == 0.01, p
    t = c.gov.policy_from_template("desk", "support_bot", {"max_actions_per_hour": 7})
    assert t.max_actions_per_hour == 7 and "send_email" in t.allowed_tools and t.max_spend_usd_per_day == 50, t
    assert {q.agent_id for q in c.gov.list_policies()} >= {"shop", "desk"}
    assert c.gov.get_policy("shop").max_calls_per_tool == {"charge": 2}
    assert raises(ApiError, lambda: c.gov.get_policy("nobody")).detail["error"] == "policy_not_found"
    raises(ValidationError, lambda: c.gov.policy_from_template("desk", "lax"))


def tools(c):
    made = c.gov.create_tool({"name": "registered", "url": tool_url, "auth": {"type": "hmac_sha256", "secret": "whisper_key"}, "timeout_ms": 4000})
    assert made["has_secret"] and made["secret_mask"] == "***key" and made["timeout_ms"] == 4000 and "whisper" not in str(made), made
    assert [t["name"] for t in c.gov.list_tools("all") if t["source"] == "api"] == ["registered"]
    r = c.ai.run_tool(agent_id="shop", tool="registered", args={"n": 1}, spend_usd=0.5)
    assert r.allowed and r.decision == "executed" and r.result["id"], r
    assert c.ai.run_tool(agent_id="shop", tool="registered", args={"n": 1}).decision == "dedup"
    assert c.ai.run_tool(agent_id="shop", tool="refund").policy_reason == "tool_explicitly_blocked"
    assert c.gov.toggle_tool("registered", enabled=False)["enabled"] is False and c.gov.get_tool("registered")["enabled"] is False
    assert not c.ai.run_tool(agent_id="shop", tool="registered", args={"n": 2}).allowed
    assert c.gov.toggle_tool("registered", enabled=True)["enabled"] is True
    raises(ApiError, lambda: c.gov.get_tool("nothing"))


def agents(c):
    s = c.gov.disable_agent("shop", reason="loops")
    assert not s.is_enabled and s.disabled_reason == "loops" and s.disabled_at, s
    assert c.ai.run_tool(agent_id="shop", tool="registered", args={"n": 3}).policy_reason == "agent_disabled"
    assert c.gov.enable_agent("shop").is_enabled
    logs = c.gov.agent_logs("shop", limit=10)
    assert len(logs) == 5 and logs[0].policy_reason == "agent_disabled" and logs[-1].decision == "executed" and logs[-1].spend_usd == 0.5, logs
    m = c.gov.agent_metrics("shop", period="hour")
    assert (m.total_actions, m.blocked_actions, m.total_spend_usd) == (1, 3, 0.5) and m.top_tools[0]["tool"] == "registered", m


def account(c):
    c.check_lock("k")
    c.check_lock("k")
    assert c.me()["plan"] == "agency" and c.update_notifications(tool_error_notifications_enabled=False)["tool_error_notifications_enabled"] is False
    u = c.usage()
    assert (u["usage"], u["requests_total_month"]) == (1, 2) and u["limit"] > 0, u
    assert c.usage_all()["ai"]["usage"] == 1, c.usage_all()
    row = c.metrics(today, today)[0] if isinstance(c.metrics(today, today), list) else c.metrics(today, today)["data"][0]
    assert (row["checks_total"], row["duplicates_blocked"]) == (2, 1), row
    events = c.events(limit=50)
    types = {e["type"] for e in (events if isinstance(events, list) else events["data"])}
    assert types >= {"locked", "duplicate", "tool_executed", "tool_blocked", "tool_dedup", "agent_disabled", "agent_enabled"}, types


def timelines(c):
    posted = c.post_event(run_id="run x/y", type="note", step="plan", data={"a": 1}, anything=[1])
    assert posted["ok"] and isinstance(posted["event_id"], int), posted
    c.ai.run_tool(agent_id="shop", tool="charge", args={"n": 9, "run_id": "run x/y"})
    line = c.get_run_timeline("run x/y")
    assert [e["type"] for e in line["events"]] == ["note", "run_started", "tool_call", "tool_result", "run_finished"], line
    assert c.get_run_timeline("nobody")["total"] == 0


def refused(c):
    for f in (lambda: c.gov.upsert_policy({"agent_id": "sdk-agent", "max_actions_per_hour": None}), lambda: c.gov.list_tools(),
              lambda: c.gov.create_tool({"name": "x", "url": tool_url}), lambda: c.gov.enable_agent("sdk-agent"), lambda: c.gov.agent_logs("shop"),
              lambda: c.gov.delete_tool("registered"), lambda: c.gov.get_policy("shop")):
        raises(UnauthorizedError, f)
    assert c.gov.get_policy("sdk-agent").blocked_tools == ["refund"]
    assert c.gov.agent_metrics("sdk-agent").total_actions == 0


async def twins():
    async with OnceOnly(api_key=key, base_url=base) as c:
        assert (await c.gov.upsert_policy_async({"agent_id": "later", "max_actions_per_hour": 1})).max_actions_per_hour == 1
        assert (await c.gov.get_tool_async("registered"))["name"] == "registered"
        assert (await c.gov.agent_metrics_async("shop")).agent_id == "shop"
        assert (await c.me_async())["is_active"] and (await c.usage_all_async())["make"]["usage"] == 1
        assert (await c.get_run_timeline_async("run x/y"))["total"] == 5
        assert (await c.gov.delete_tool_async("registered"))["deleted"] == "registered"


with OnceOnly(api_key=key, base_url=base) as c:
    for part in (policies, tools, agents, account, timelines):
        part(c)
with OnceOnly(api_key=agent_key, base_url=base) as c:
    refused(c)
asyncio.run(twins())
