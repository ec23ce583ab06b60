package config

import (
	"strings"
	"testing"
)

const reached = head + `api: {listen: "127.0.0.1:7771", keys: [{name: a, role: agent, agent_id: x, key: "${env:OTHER}"}, {name: ops, role: operator, key: "${env:OPS}"}]}
`

// TestReach: what has nothing to do with asking the sidecar does not keep an operator from the kill switch; what has, does.
func TestReach(t *testing.T) {
	for _, rest := range []string{
		"",
		"tools: [{name: a.b, url: \"https://a.test/b\", headers: {Authorization: \"Bearer ${env:STRIPE_KEY}\"}}]\n",
		"tools: [{name: a.b, auth: {type: hmac_sha256, secrets: [\"${file:/nowhere/secret}\"]}}]\n",
		"policies: [{agent_id: x, templat: moderate}]\nlog: {level: loud}\nfrob: 1\n",
		"store: {kind: redis, redis: {addrs: [\"127.0.0.1:1\"], password: \"${env:REDIS_PASSWORD}\"}}\n",
	} {
		file := write(t, reached+rest)
		c, err := Reach(file, []string{"OPS=0123456789abcdefop"})
		if err != nil {
			t.Errorf("%s\n%v", rest, err)
			continue
		}
		if key, _, err := OperatorKey(c); c.API.Listen != "127.0.0.1:7771" || key != "0123456789abcdefop" || err != nil {
			t.Error(rest, c.API.Listen, err)
		}
		if _, _, err := Load(file, []string{"OPS=0123456789abcdefop"}, nil); err == nil {
			t.Error("Load takes it:", rest)
		}
	}
	for text, says := range map[string]string{
		reached:                                  "OPS is not set",
		head + "api: {lisen: \"127.0.0.1:1\"}\n": "lisen",
		head + "apis: {listen: \"127.0.0.1:1\"}\n":                                "apis",
		head + "health: {listen: nowhere}\n":                                      "health.listen",
		head + "store: {embedded: {dir: \"${env:STATE}\"}}\n":                     "STATE is not set",
		head + "api: {keys: [{name: ops, rol: operator, key: \"${env:OPS}\"}]}\n": "rol",
		"version: [\n": "YAML",
	} {
		if _, err := Reach(write(t, text), nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\nsays %v, not %q", text, err, says)
		}
	}
	if _, err := Reach(write(t, head), []string{"OO_API__LISEN=127.0.0.1:1"}); err == nil {
		t.Error("a misspelt variable of the api's address is passed over")
	}
}
