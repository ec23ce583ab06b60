package policy

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func set(t testing.TB, configs ...Config) *Set {
	t.Helper()
	s, err := New(configs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// one is the policy of a single entry.
func one(t testing.TB, c Config) *Policy {
	t.Helper()
	c.AgentID = "ag"
	return set(t, c).For("ag")
}

func TestDecide(t *testing.T) {
	plain, reads := &tool.Tool{}, &tool.Tool{Effect: tool.Read}
	idempotent := &tool.Tool{Effect: tool.Idempotent}
	blocked, allowed := func(s ...string) Config { return Config{BlockedTools: s} }, func(s ...string) Config { return Config{AllowedTools: s} }
	for _, v := range []struct {
		about  string
		policy *Policy
		name   string
		tool   *tool.Tool
		force  bool
		want   Decision
	}{
		{"no policy", nil, "t", plain, false, Decision{Allow: true, Reason: OK, Risk: Low}},
		{"no policy, no tool", nil, "t", nil, false, Decision{Allow: true, Reason: OK, Risk: Low}},
		{"empty policy", one(t, Config{}), "t", plain, false, Decision{Allow: true, Reason: OK, Risk: Low}},

		{"blocked", one(t, blocked("a", "t")), "t", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: t", Source: "file", Risk: Medium}},
		{"blocked, not registered", one(t, blocked("t")), "t", nil, false, Decision{Reason: Blocked, Rule: "blocked_tools: t", Source: "file", Risk: Medium}},
		{"blocked by the api", one(t, Config{BlockedTools: []string{"t"}, Source: "api"}), "t", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: t", Source: "api", Risk: Medium}},
		{"blocked by prefix", one(t, blocked("crm.*")), "crm.merge", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: crm.*", Source: "file", Risk: Medium}},
		{"the prefix itself", one(t, blocked("crm*")), "crm", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: crm*", Source: "file", Risk: Medium}},
		{"everything blocked", one(t, blocked("*")), "t", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: *", Source: "file", Risk: Medium}},
		{"case counts", one(t, blocked("T")), "t", plain, false, Decision{Allow: true, Reason: OK, Risk: Low}},
		{"no prefix without star", one(t, blocked("t")), "tt", plain, false, Decision{Allow: true, Reason: OK, Risk: Low}},
		{"destructive", one(t, blocked("crm.delete_user")), "crm.delete_user", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: crm.delete_user", Source: "file", Risk: High}},

		{"allowed", one(t, allowed("a", "t")), "t", plain, false, Decision{Allow: true, Reason: OK, Rule: "allowed_tools: t", Source: "file", Risk: Low}},
		{"allowed by prefix", one(t, allowed("t*")), "tool", plain, false, Decision{Allow: true, Reason: OK, Rule: "allowed_tools: t*", Source: "file", Risk: Low}},
		{"not allowed", one(t, allowed("a")), "t", plain, false, Decision{Reason: NotAllowed, Rule: "allowed_tools", Source: "file", Risk: Medium}},
		{"not allowed, not registered", one(t, allowed("a")), "t", nil, false, Decision{Reason: NotAllowed, Rule: "allowed_tools", Source: "file", Risk: Medium}},
		{"not allowed and destructive", one(t, allowed("a")), "deleteUser", plain, false, Decision{Reason: NotAllowed, Rule: "allowed_tools", Source: "file", Risk: High}},
		{"block wins", one(t, Config{AllowedTools: []string{"t"}, BlockedTools: []string{"*"}}), "t", plain, false, Decision{Reason: Blocked, Rule: "blocked_tools: *", Source: "file", Risk: Medium}},
		{"an empty allow-list is none", one(t, allowed()), "t", plain, false, Decision{Allow: true, Reason: OK, Risk: Low}},

		{"read_only, reads", one(t, Config{Template: "read_only"}), "t", reads, false, Decision{Allow: true, Reason: OK, Risk: Low}},
		{"read_only, mutates", one(t, Config{Template: "read_only"}), "t", plain, false, Decision{Reason: Blocked, Rule: "template read_only: effect mutating", Source: "file", Risk: Medium}},
		{"read_only, idempotent", one(t, Config{Template: "read_only"}), "t", idempotent, false, Decision{Reason: Blocked, Rule: "template read_only: effect idempotent", Source: "file", Risk: Medium}},
		{"read_only, not registered", one(t, Config{Template: "read_only"}), "t", nil, false, Decision{Allow: true, Reason: OK, Risk: Low}},
		{"read_only, its list", one(t, Config{Template: "read_only"}), "send_email", reads, false, Decision{Reason: Blocked, Rule: "blocked_tools: send_email", Source: "file", Risk: Medium}},
		{"read_only beats its own allow-list", one(t, Config{Template: "read_only", AllowedTools: []string{"t"}, BlockedTools: []string{}}), "t", plain, false, Decision{Reason: Blocked, Rule: "template read_only: effect mutating", Source: "file", Risk: Medium}},

		{"repeat, no policy", nil, "t", plain, true, Decision{Reason: ForceNewDenied, Rule: "allow_force_new: false", Risk: Medium}},
		{"repeat denied", one(t, Config{}), "t", plain, true, Decision{Reason: ForceNewDenied, Rule: "allow_force_new: false", Source: "file", Risk: Medium}},
		{"repeat allowed", one(t, Config{AllowForceNew: true}), "t", plain, true, Decision{Allow: true, Reason: OK, Risk: High}},
		{"repeat of a blocked tool", one(t, Config{AllowForceNew: true, BlockedTools: []string{"t"}}), "t", plain, true, Decision{Reason: Blocked, Rule: "blocked_tools: t", Source: "file", Risk: Medium}},
		{"repeat, not registered", one(t, Config{}), "t", nil, true, Decision{Allow: true, Reason: OK, Risk: High}},

		{"shadow, blocked", one(t, Config{Mode: "shadow", BlockedTools: []string{"t"}}), "t", plain, false, Decision{Allow: true, Reason: OK, Rule: "blocked_tools: t", Source: "file", Risk: Low, Shadow: Blocked}},
		{"shadow, not allowed", one(t, Config{Mode: "shadow", AllowedTools: []string{"a"}}), "t", nil, false, Decision{Allow: true, Reason: OK, Rule: "allowed_tools", Source: "file", Risk: Low, Shadow: NotAllowed}},
		{"shadow, read_only", one(t, Config{Mode: "shadow", Template: "read_only"}), "t", plain, false, Decision{Allow: true, Reason: OK, Rule: "template read_only: effect mutating", Source: "file", Risk: Low, Shadow: Blocked}},
		{"shadow, repeat", one(t, Config{Mode: "shadow", BlockedTools: []string{"t"}}), "t", plain, true, Decision{Reason: ForceNewDenied, Rule: "allow_force_new: false", Source: "file", Risk: Medium, Shadow: Blocked}},
		{"shadow, fine", one(t, Config{Mode: "shadow"}), "t", plain, false, Decision{Allow: true, Reason: OK, Risk: Low}},
	} {
		if got := v.policy.Decide(v.name, v.tool, v.force); got != v.want {
			t.Errorf("%s:\n got %+v\nwant %+v", v.about, got, v.want)
		}
	}
}

func TestRisk(t *testing.T) {
	capped := one(t, Config{MaxSpendUSDPerDay: ptr(50 * tool.USD)})
	sensitive := &tool.Tool{Sensitive: true}
	for _, v := range []struct {
		about  string
		policy *Policy
		name   string
		tool   *tool.Tool
		reason Reason
		cost   tool.Money
		forced bool
		want   Risk
	}{
		{"disabled agent", nil, "t", nil, AgentDisabled, 0, false, High},
		{"disabled tool", nil, "t", nil, ToolDisabled, 0, false, Medium},
		{"unregistered tool", nil, "t", nil, NotRegistered, 0, false, Medium},
		{"no secret", nil, "t", nil, SecretMissing, 0, false, Medium},
		{"tool_error", nil, "t", nil, "tool_error", 0, false, Medium},
		{"hour", nil, "delete_user", nil, "max_actions_per_hour_exceeded", 0, false, Low},
		{"day", nil, "t", nil, "max_spend_usd_per_day_exceeded", 99 * tool.USD, true, Low},
		{"replay", nil, "t", nil, "tool_idempotency", 0, false, Low},
		{"a tenth", capped, "t", nil, OK, 5 * tool.USD, false, Low},
		{"more than a tenth", capped, "t", nil, OK, 5*tool.USD + 1, false, Medium},
		{"no cap", nil, "t", nil, OK, 999 * tool.USD, false, Low},
		{"executed destructive", nil, "delete_user", nil, OK, 0, false, Low},
		{"sensitive", nil, "t", sensitive, OK, 0, false, Medium},
		{"sensitive and dear", capped, "t", sensitive, OK, 6 * tool.USD, false, High},
		{"sensitive and blocked", nil, "t", sensitive, Blocked, 0, false, High},
		{"sensitive and forced", nil, "t", sensitive, OK, 0, true, High},
		{"a word within", nil, "undeleted", nil, Blocked, 0, false, Medium},
		{"capitals", nil, "crm:DELETE-all", nil, Blocked, 0, false, High},
		{"camel", nil, "crm.userDelete", nil, NotAllowed, 0, false, High},
	} {
		if got := v.policy.Risk(v.name, v.tool, v.reason, v.cost, v.forced); got != v.want {
			t.Errorf("%s: %s, want %s", v.about, got, v.want)
		}
	}
	dear := one(t, Config{MaxSpendUSDPerDay: ptr(tool.USD), PricingRules: []PricingRule{{"t", tool.USD / 2}}})
	if d := dear.Decide("t", &tool.Tool{}, false); d.Risk != Medium {
		t.Errorf("a call of half the day's cap is decided with risk %s", d.Risk)
	}
}

func TestCost(t *testing.T) {
	priced := one(t, Config{PricingRules: []PricingRule{{"t", 9}, {"u", 1}, {"t", 5}}})
	for _, v := range []struct {
		policy   *Policy
		tool     *tool.Tool
		name     string
		declared tool.Money
		want     tool.Money
	}{
		{nil, nil, "t", 0, 0},
		{nil, nil, "t", 7, 7},
		{nil, nil, "t", -7, 0},
		{nil, &tool.Tool{Price: 3}, "t", 2, 3},
		{nil, &tool.Tool{Price: 3}, "t", 4, 4},
		{priced, nil, "t", 0, 5}, // the last rule wins, though it is the smaller one
		{priced, nil, "t", 6, 6},
		{priced, &tool.Tool{Price: 8}, "t", 6, 8},
		{priced, &tool.Tool{Price: 3}, "t", 1, 5},
		{priced, &tool.Tool{Price: 3}, "other", 0, 3},
	} {
		if got := v.policy.Cost(v.tool, v.name, v.declared); got != v.want {
			t.Errorf("%s, declared %v: %v, want %v", v.name, v.declared, got, v.want)
		}
	}
}

func TestLimits(t *testing.T) {
	p := one(t, Config{MaxActionsPerHour: ptr(int64(0)), MaxSpendUSDPerDay: ptr(tool.USD), MaxCallsPerTool: map[string]int64{"t": 0, "u": 7}})
	l := p.Limits("t")
	if *l.ActionsPerHour != 0 || *l.SpendPerDay != tool.USD || *l.CallsPerDay != 0 || *p.Limits("u").CallsPerDay != 7 || p.Limits("v").CallsPerDay != nil {
		t.Errorf("limits are %+v", l)
	}
	if l := (*Policy)(nil).Limits("t"); l != (tool.Limits{}) {
		t.Errorf("no policy limits by %+v", l)
	}
	if l := one(t, Config{}).Limits("t"); l != (tool.Limits{}) {
		t.Errorf("an empty policy limits by %+v", l)
	}
	if one(t, Config{Mode: "shadow", MaxActionsPerHour: ptr(int64(3))}).Limits("t").ActionsPerHour == nil {
		t.Error("a shadow policy must report what it would limit")
	}
	for over, want := range map[string]string{"max_actions_per_hour_exceeded": "max_actions_per_hour: 0", "max_calls_per_tool_exceeded": "max_calls_per_tool: u: 7",
		"max_spend_usd_per_day_exceeded": "max_spend_usd_per_day: 1", "ok": ""} {
		if got := p.Rule(over, "u"); got != want {
			t.Errorf("the rule of %s is %q, want %q", over, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { p.Limits("t"); p.Decide("t", nil, false); p.Cost(nil, "t", 0) }); n != 0 {
		t.Errorf("deciding allocates %v times", n)
	}
}

func TestFor(t *testing.T) {
	s := set(t, Config{AgentID: "a"}, Config{AgentID: "*", Source: "api"})
	for agent, want := range map[string]string{"a": "a", "b": "*", "": "*", "*": "*"} {
		if got := s.For(agent).AgentID(); got != want {
			t.Errorf("%q has the policy of %q, want %q", agent, got, want)
		}
	}
	var ids []string
	for _, p := range s.All() {
		ids = append(ids, p.AgentID()+" "+p.Source())
	}
	if want := []string{"* api", "a file"}; !slices.Equal(ids, want) {
		t.Errorf("all are %q, want %q", ids, want)
	}
	none := set(t, Config{AgentID: "a"})
	if none.For("b") != nil || (*Set)(nil).For("a") != nil || (*Set)(nil).All() != nil {
		t.Error("an agent without a policy has one")
	}
	if p := (*Policy)(nil); p.Shadow() || p.Source() != "" || p.AgentID() != "" || p.Rule("max_actions_per_hour_exceeded", "t") != "" || p.Explain("t", nil, true) != nil {
		t.Error("no policy says something")
	}
	if !reflect.DeepEqual((*Policy)(nil).Config(), Config{}) {
		t.Error("no policy has a configuration")
	}
}

func TestTemplates(t *testing.T) {
	want := map[string]Config{
		"strict":     {MaxActionsPerHour: ptr(int64(50)), MaxSpendUSDPerDay: ptr(5 * tool.USD), BlockedTools: []string{"delete_user", "delete_customer", "refund_all"}},
		"moderate":   {MaxActionsPerHour: ptr(int64(200)), MaxSpendUSDPerDay: ptr(50 * tool.USD), BlockedTools: []string{"delete_user"}},
		"permissive": {MaxActionsPerHour: ptr(int64(1000)), MaxSpendUSDPerDay: ptr(500 * tool.USD)},
		"read_only": {MaxActionsPerHour: ptr(int64(500)), MaxSpendUSDPerDay: ptr(tool.Money(0)),
			BlockedTools: []string{"stripe.charge", "stripe.refund", "process_payment", "process_refund", "delete_user", "delete_customer", "send_email"}},
		"support_bot": {MaxActionsPerHour: ptr(int64(150)), MaxSpendUSDPerDay: ptr(50 * tool.USD),
			AllowedTools:    []string{"send_email", "create_ticket", "read_knowledge_base", "read_customer_data", "read_order_history"},
			BlockedTools:    []string{"delete_customer", "delete_ticket", "process_refund", "update_customer_data"},
			MaxCallsPerTool: map[string]int64{"send_email": 500, "create_ticket": 100, "read_knowledge_base": 1000, "read_customer_data": 200},
			PricingRules:    []PricingRule{{"send_email", 1000}, {"create_ticket", 50_000}, {"read_knowledge_base", 0}, {"read_customer_data", 0}, {"read_order_history", 0}}},
	}
	if got := Templates(); !slices.Equal(got, []string{"moderate", "permissive", "read_only", "strict", "support_bot"}) {
		t.Errorf("templates are %q", got)
	}
	for name, c := range want {
		c.AgentID, c.Template, c.Source = "ag", name, "file"
		if got := one(t, Config{Template: name}).Config(); !reflect.DeepEqual(got, c) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c)
		}
	}
}

func TestOverrides(t *testing.T) {
	own := Config{Template: "support_bot", MaxActionsPerHour: ptr(int64(1)), MaxSpendUSDPerDay: ptr(tool.Money(2)), AllowedTools: []string{},
		BlockedTools: []string{"x"}, MaxCallsPerTool: map[string]int64{"y": 3}, PricingRules: []PricingRule{{"z", 4}}}
	got := one(t, own).Config()
	own.AgentID, own.Source = "ag", "file"
	if !reflect.DeepEqual(got, own) {
		t.Errorf("got %+v, want %+v", got, own)
	}
	changed := one(t, Config{Template: "support_bot"}).Config()
	changed.BlockedTools[0], changed.MaxCallsPerTool["send_email"] = "x", 0
	if again := one(t, Config{Template: "support_bot"}).Config(); again.BlockedTools[0] == "x" || again.MaxCallsPerTool["send_email"] == 0 {
		t.Error("a policy shares its lists with the template")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, v := range []struct {
		config Config
		field  string
		want   string
	}{
		{Config{}, "agent_id", "missing"},
		{Config{AgentID: "a\nb"}, "agent_id", "control"},
		{Config{AgentID: "a", Template: "lax"}, "template", "moderate, permissive, read_only, strict, support_bot"},
		{Config{AgentID: "a", Mode: "off"}, "mode", "enforce or shadow"},
		{Config{AgentID: "a", Anomaly: "kill"}, "anomaly", "observe or disable"},
		{Config{AgentID: "a", MaxActionsPerHour: ptr(int64(-1))}, "max_actions_per_hour", "negative"},
		{Config{AgentID: "a", MaxSpendUSDPerDay: ptr(tool.Money(-1))}, "max_spend_usd_per_day", "out of range"},
		{Config{AgentID: "a", AllowedTools: []string{""}}, "allowed_tools", "no tool name"},
		{Config{AgentID: "a", AllowedTools: []string{"a*b"}}, "allowed_tools", "may only end it"},
		{Config{AgentID: "a", BlockedTools: []string{"*.delete"}}, "blocked_tools", "may only end it"},
		{Config{AgentID: "a", BlockedTools: []string{"a**"}}, "blocked_tools", "may only end it"},
		{Config{AgentID: "a", BlockedTools: []string{"a b"}}, "blocked_tools", "no tool name"},
		{Config{AgentID: "a", MaxCallsPerTool: map[string]int64{"t": -1}}, "max_calls_per_tool.t", "negative"},
		{Config{AgentID: "a", MaxCallsPerTool: map[string]int64{"t*": 1}}, "max_calls_per_tool", "in full"},
		{Config{AgentID: "a", PricingRules: []PricingRule{{"t*", 1}}}, "pricing_rules", "in full"},
		{Config{AgentID: "a", PricingRules: []PricingRule{{"", 1}}}, "pricing_rules", "in full"},
		{Config{AgentID: "a", PricingRules: []PricingRule{{"t", -1}}}, "pricing_rules", "out of range"},
	} {
		s, err := New([]Config{v.config})
		f, ok := errors.AsType[*tool.FieldError](err)
		if s != nil || !ok || f.Field != v.field || !strings.Contains(f.Problem, v.want) {
			t.Errorf("%+v: %v; want %s and %q", v.config, err, v.field, v.want)
		}
		if v.config.AgentID == "a" && ok && f.Entry != "policy a" {
			t.Errorf("%v does not name the policy", err)
		}
	}
	if _, err := New([]Config{{AgentID: "a"}, {AgentID: "a", Source: "api"}}); err == nil || !strings.Contains(err.Error(), "policy a: agent_id: has two policies") {
		t.Errorf("two policies for one agent: %v", err)
	}
	_, err := New([]Config{{AgentID: "a", Mode: "x", Template: "y"}, {AgentID: "b", Mode: "z"}})
	for _, want := range []string{"policy a: mode", "policy a: template", "policy b: mode"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

// Names that stand for calls without a tool can be listed too.
func TestListsTakeNamesOfUnregisteredCalls(t *testing.T) {
	p := one(t, Config{BlockedTools: []string{"DELETE:*", "POST:[::1]:8443"}})
	for name, blocked := range map[string]bool{"DELETE:api.example": true, "POST:[::1]:8443": true, "POST:api.example": false} {
		if got := !p.Decide(name, &tool.Tool{Unregistered: true}, false).Allow; got != blocked {
			t.Errorf("%s is blocked: %t", name, got)
		}
	}
}

func TestExplain(t *testing.T) {
	p := one(t, Config{Template: "read_only", Mode: "shadow", BlockedTools: []string{"x", "t*"}, AllowedTools: []string{"u"}, Source: "api",
		MaxCallsPerTool: map[string]int64{"tt": 3}, PricingRules: []PricingRule{{"tt", 5}}})
	want := []Verdict{
		{"blocked_tools: x, t*", "deny: t*", "api"},
		{"template: read_only", "deny: its effect is mutating", "api"},
		{"allowed_tools: u", "deny: not in it", "api"},
		{"allow_force_new: false", "deny", "api"},
		{"max_actions_per_hour: 500", "limit", "api"},
		{"max_calls_per_tool: tt: 3", "limit", "api"},
		{"max_spend_usd_per_day: 0", "limit", "api"},
		{"pricing_rules: tt: 0.000005", "price", "api"},
		{"mode: shadow", "lists and caps are judged and do not block", "api"},
	}
	if got := p.Explain("tt", &tool.Tool{}, true); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	want = []Verdict{{"blocked_tools: b", "allow: not in it", "file"}, {"allowed_tools: t*", "allow: t*", "file"}}
	if got := one(t, Config{BlockedTools: []string{"b"}, AllowedTools: []string{"t*"}}).Explain("tt", nil, false); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// FuzzDecide: block wins, an allow-list excludes what it does not name, and shadow changes nothing but whether it binds.
func FuzzDecide(f *testing.F) {
	f.Add("t", "t*", "t", false)
	f.Add("delete_user", "delete_*", "", true)
	f.Fuzz(func(t *testing.T, name, block, allow string, force bool) {
		c := Config{AgentID: "a"}
		if block != "" {
			c.BlockedTools = []string{block}
		}
		if allow != "" {
			c.AllowedTools = []string{allow}
		}
		enforced, err := New([]Config{c})
		if err != nil {
			return
		}
		fits := func(p string) bool {
			return p == name || strings.HasSuffix(p, "*") && strings.HasPrefix(name, strings.TrimSuffix(p, "*"))
		}
		d := enforced.For("a").Decide(name, nil, force)
		denied := block != "" && fits(block) || allow != "" && !fits(allow)
		if d.Allow == denied || denied && d.Rule == "" || d.Allow != (d.Reason == OK) {
			t.Fatalf("%q under block %q, allow %q: %+v", name, block, allow, d)
		}
		c.Mode = "shadow"
		s := set(t, c).For("a").Decide(name, nil, force)
		if !s.Allow || (s.Shadow == "") == denied || denied && s.Shadow != d.Reason {
			t.Fatalf("in shadow %+v, enforced %+v", s, d)
		}
	})
}
