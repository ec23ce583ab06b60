package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxToolBody   = 256 << 10
	maxToolURL    = 4096 // characters
	maxSecretText = 1024
	leastSecret   = 8
)

// ToolSpec is what of an entry's Spec the tools registry shows. What has no secret has neither its id nor its mask.
type ToolSpec struct {
	URL         string  `json:"url"`
	TimeoutMS   int64   `json:"timeout_ms"`
	MaxRetries  int     `json:"max_retries"`
	Enabled     bool    `json:"enabled"`
	Description string  `json:"description"`
	Effect      string  `json:"effect"`
	PriceUSD    string  `json:"price_usd"`
	Body        string  `json:"body"`
	HasSecret   bool    `json:"has_secret"`
	SecretID    *string `json:"secret_id"` // of the present secret; another one after a rotation
	SecretMask  *string `json:"secret_mask"`
}

type toolEntryAnswer struct {
	Name    string `json:"name"`
	ScopeID string `json:"scope_id"`
	ToolSpec
	PriceUSD json.Number `json:"price_usd"`
	AuthType *string     `json:"auth_type"`
	Source   string      `json:"source"`
}

func toolEntryAnswerOf(e *Entry) toolEntryAnswer {
	a := toolEntryAnswer{Name: e.Name, ScopeID: e.Scope, Source: e.Source}
	_ = json.Unmarshal(e.Spec, &a.ToolSpec)
	a.PriceUSD = json.Number(or(a.ToolSpec.PriceUSD, "0"))
	if a.HasSecret {
		kind := "hmac_sha256"
		a.AuthType = &kind
	}
	return a
}

// scopeOf reads the scope of a tool from a query string.
func scopeOf(r *http.Request) string { return or(r.URL.Query().Get("scope_id"), "global") }

func (s *Server) listRegistered(w http.ResponseWriter, r *http.Request, _ *Key) {
	if s.Registry == nil {
		missing(w, "tools")
		return
	}
	scope, list := scopeOf(r), []toolEntryAnswer{}
	for _, e := range s.Registry.Tools() {
		if scope == "all" || e.Scope == scope {
			list = append(list, toolEntryAnswerOf(&e))
		}
	}
	answer(w, http.StatusOK, list)
}

// registered is the tool of that name and scope; nil when there is none.
func (s *Server) registered(name, scope string) *Entry {
	for _, e := range s.Registry.Tools() {
		if e.Name == name && e.Scope == scope {
			return &e
		}
	}
	return nil
}

func (s *Server) getRegistered(w http.ResponseWriter, r *http.Request, _ *Key) {
	if s.Registry == nil {
		missing(w, "tools")
		return
	}
	s.showTool(w, r.PathValue("name"), scopeOf(r))
}

func (s *Server) showTool(w http.ResponseWriter, name, scope string) {
	e := s.registered(name, scope)
	if e == nil {
		noTool(w, name)
		return
	}
	answer(w, http.StatusOK, toolEntryAnswerOf(e))
}

func noTool(w http.ResponseWriter, name string) {
	fail(w, http.StatusNotFound, struct {
		problem
		Tool string `json:"tool"`
	}{problem{"tool_not_found", "no tool of this name is registered in this scope"}, name})
}

// upsertTool answers POST /v1/tools: it registers a tool, or changes what is named of one that stands here or in the
// configuration file.
func (s *Server) upsertTool(w http.ResponseWriter, r *http.Request, by *Key) {
	f := fieldsOf(w, r, maxToolBody)
	if f == nil {
		return
	}
	if s.Registry == nil {
		missing(w, "tools")
		return
	}
	t := f.toolEntry()
	if f.refuse(w) {
		return
	}
	s.merging.Lock()
	defer s.merging.Unlock()
	old := s.registered(t.name, t.scope)
	switch {
	case old == nil && !by.mayRegister(len(s.Registry.Tools())):
		fail(w, http.StatusForbidden, problem{"plan_limit", strings.ToUpper(by.Plan) + " plan limit: max " + strconv.Itoa(mostTools[by.Plan]) + " tools"})
	case old == nil && t.secret == "":
		f.within("auth", nil).bad("secret", "missing", "Field required", nil)
		f.refuse(w)
	default:
		if old == nil {
			t.spec = withDefault(t.spec, "body", `"envelope"`)
		}
		s.putSealed(w, r, by, t)
	}
}

func withDefault(spec map[string]json.RawMessage, name, value string) map[string]json.RawMessage {
	if spec[name] == nil {
		spec[name] = json.RawMessage(value)
	}
	return spec
}

func (k *Key) mayRegister(have int) bool {
	most, limited := mostTools[k.Plan]
	return !limited || have < most
}

func (s *Server) putSealed(w http.ResponseWriter, r *http.Request, by *Key, t *givenTool) {
	if err := s.Registry.PutTool(r.Context(), t.name, t.scope, t.spec, t.secret, by.Name); err != nil {
		s.refuseBody(w, err)
		return
	}
	s.showTool(w, t.name, t.scope)
}

// toggleTool answers POST /v1/tools/{name}/toggle.
func (s *Server) toggleTool(w http.ResponseWriter, r *http.Request, by *Key) {
	f := fieldsOf(w, r, maxToolBody)
	if f == nil {
		return
	}
	if !f.has("enabled") {
		f.bad("enabled", "missing", "Field required", nil)
	} else {
		f.flag("enabled")
	}
	if f.refuse(w) {
		return
	}
	if s.Registry == nil {
		missing(w, "tools")
		return
	}
	s.merging.Lock()
	defer s.merging.Unlock()
	name, scope, on := r.PathValue("name"), scopeOf(r), f.raw["enabled"]
	if s.registered(name, scope) == nil {
		noTool(w, name)
		return
	}
	if err := s.Registry.PutTool(r.Context(), name, scope, map[string]json.RawMessage{"enabled": on}, "", by.Name); err != nil {
		s.refuseBody(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"name": name, "enabled": on, "scope_id": scope})
}

// deleteRegistered answers DELETE /v1/tools/{name}.
func (s *Server) deleteRegistered(w http.ResponseWriter, r *http.Request, by *Key) {
	if s.Registry == nil {
		missing(w, "tools")
		return
	}
	s.merging.Lock()
	defer s.merging.Unlock()
	name, scope := r.PathValue("name"), scopeOf(r)
	if s.registered(name, scope) == nil {
		noTool(w, name)
		return
	}
	if err := s.Registry.Delete(r.Context(), ToolEntry, name, scope, by.Name); err != nil {
		s.refuseEntry(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"ok": true, "deleted": name, "scope_id": scope})
}

// givenTool is what the body of POST /v1/tools says, in the words of the configuration file.
type givenTool struct {
	name, scope string
	spec        map[string]json.RawMessage
	secret      string // empty: the present one
}

func (f *fields) toolEntry() *givenTool {
	t := &givenTool{name: f.text("name", maxName), scope: "global", spec: map[string]json.RawMessage{}}
	if t.name != "" {
		f.named("name", t.name)
	}
	if f.has("scope_id") {
		t.scope = f.text("scope_id", maxName)
	}
	if agent, scoped := strings.CutPrefix(t.scope, "agent:"); t.scope != "global" && (!scoped || agent == "") {
		f.bad("scope_id", "value_error", "Value error, a scope is global or agent:ID", nil)
	}
	t.spec["url"] = encode(f.text("url", maxToolURL))
	t.secret = f.authSecret()
	if f.has("timeout_ms") {
		t.spec["timeout"] = encode(strconv.Itoa(f.bounded("timeout_ms", 250, 120_000)) + "ms")
	}
	if f.has("max_retries") {
		t.spec["max_retries"] = encode(f.bounded("max_retries", 0, 10))
	}
	if f.has("enabled") {
		t.spec["enabled"] = f.flag("enabled")
	}
	if f.has("description") {
		t.spec["description"] = encode(f.anyText("description", 512))
	}
	f.toolExtensions(t.spec)
	return t
}

// toolExtensions reads what the hosted service has not. The registry judges it.
func (f *fields) toolExtensions(spec map[string]json.RawMessage) {
	for _, name := range []string{"effect", "body"} {
		if f.has(name) {
			spec[name] = f.word(name)
		}
	}
	if f.has("price_usd") {
		spec["price_usd"] = f.money("price_usd")
	}
	if f.has("dedup") {
		spec["dedup"] = f.object("dedup", maxToolBody)
	}
	if f.has("match") {
		spec["match"] = f.raw["match"]
		if f.raw["match"][0] != '[' {
			f.bad("match", "list_type", "Input should be a valid list", f.raw["match"])
		}
	}
}

// authSecret reads auth; empty when it names no new secret. Faults in it never repeat what was sent.
func (f *fields) authSecret() string {
	if !f.has("auth") {
		return ""
	}
	if f.raw["auth"][0] != '{' {
		f.bad("auth", "dict_type", "Input should be a valid dictionary", nil)
		return ""
	}
	auth := f.within("auth", f.raw["auth"])
	if kind := auth.text("type", maxName); kind != "" && kind != "hmac_sha256" {
		auth.bad("type", "literal_error", "Input should be 'hmac_sha256'", nil)
	}
	if !auth.has("secret") {
		return ""
	}
	var secret string
	if json.Unmarshal(auth.raw["secret"], &secret) != nil {
		auth.bad("secret", "string_type", "Input should be a valid string", nil)
	}
	switch n := utf8.RuneCountInString(secret); {
	case secret != "" && n < leastSecret:
		auth.bad("secret", "string_too_short", "String should have at least 8 characters", nil)
	case n > maxSecretText:
		auth.bad("secret", "string_too_long", "String should have at most 1024 characters", nil)
	}
	return secret
}

// bounded reads a whole number within bounds.
func (f *fields) bounded(name string, least, most int64) int {
	n, ok := wholeNumber(f.raw[name])
	switch {
	case !ok:
		f.bad(name, "int_type", "Input should be a valid integer", f.raw[name])
	case n < least:
		f.bad(name, "greater_than_equal", "Input should be greater than or equal to "+strconv.FormatInt(least, 10), f.raw[name])
	case n > most:
		f.bad(name, "less_than_equal", "Input should be less than or equal to "+strconv.FormatInt(most, 10), f.raw[name])
	}
	return int(n)
}

// anyText is text that may be empty.
func (f *fields) anyText(name string, most int) string {
	if string(f.raw[name]) == `""` {
		return ""
	}
	return f.text(name, most)
}
