package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const controlHead = head + "control: {base_url: https://x, api_key: 0123456789abcdef, "
const redisHead = head + "store: {kind: redis, redis: {"

// wrong is one way in which a file is wrong, and what must be said of it.
type wrong struct {
	name, text string
	key        string
	line       int
	message    string
	mend       string
}

const head = "version: 1\n"

var shapes = []wrong{
	{"not yaml", "version: 1\nagent: [", "", 2, "is not YAML", ""},
	{"tab", "version: 1\nagent:\n\tid: a\n", "", 3, "is not YAML", ""},
	{"unclosed quote", "version: 1\nagent: {id: \"a}\n", "", 2, "is not YAML", ""},
	{"two documents", "version: 1\n---\nversion: 1\n", "", 2, "a second document begins here", "one file holds one"},
	{"a list", "- version: 1\n", "", 1, "must hold names with values", ""},
	{"a word", "hello\n", "", 1, "must hold names with values", ""},
	{"empty", "", "version", 0, "is missing", "write version: 1"},
	{"comments only", "# nothing\n", "version", 0, "is missing", ""},
	{"no version", "agent: {id: a}\n", "version", 0, "is missing", ""},
	{"another version", "version: 2\n", "version", 1, "2 is not known to this build", "write version: 1"},
	{"version as text", "version: \"1\"\n", "version", 1, "must be a whole number", "without quotes"},
	{"tag", head + "agent: {id: !secret a}\n", "agent.id", 2, "the tag !secret is not supported", ""},
	{"binary", head + "agent: {id: !!binary YQ==}\n", "agent.id", 2, "the tag !!binary is not supported", ""},
	{"anchor unknown", head + "api:\n  keys: *k\n", "", 3, "unknown anchor", "quote a value that begins with *"},

	{"unknown section", head + "stor: {}\n", "stor", 2, `unknown key "stor"`, "did you mean store?"},
	{"unknown key", head + "store:\n  knid: embedded\n", "store.knid", 3, `unknown key "knid"`, "did you mean kind?"},
	{"unknown key, deep", head + "store:\n  redis:\n    adrs: []\n", "store.redis.adrs", 4, `unknown key "adrs"`, "did you mean addrs?"},
	{"unknown key in a list", head + "tools:\n- {name: a, url: https://h/a}\n- name: b\n  url: https://h/b\n  dedup:\n    tll: 1s\n",
		"tools[1].dedup.tll", 7, `unknown key "tll"`, "did you mean ttl?"},
	{"unknown key in a list of a list", head + "tools:\n- name: b\n  url: https://h/b\n  match:\n  - ulr: https://h/b\n",
		"tools[0].match[0].ulr", 6, `unknown key "ulr"`, "did you mean url?"},
	{"unknown key behind a pointer", head + "tools:\n- name: b\n  url: https://h/b\n  auth:\n    type: hmac_sha256\n    secret: [x]\n",
		"tools[0].auth.secret", 7, `unknown key "secret"`, "did you mean secrets?"},
	{"nothing is near", head + "health: {frobnicate: 1}\n", "health.frobnicate", 2, "unknown key", "known here: listen"},
	{"wrong case", head + "agent: {ID: a}\n", "agent.ID", 2, `unknown key "ID"`, "did you mean id?"},
	{"a Go name", head + "proxy: {UpstreamCA: a}\n", "proxy.UpstreamCA", 2, "unknown key", "did you mean upstream_ca?"},
	{"a field that is no key", head + "tools: [{name: a, url: https://h/a, source: api}]\n", "tools[0].source", 2, `unknown key "source"`, ""},
	{"unknown json key", "{\"version\": 1,\n \"agent\": {\"idd\": \"a\"}}", "agent.idd", 2, `unknown key "idd"`, "did you mean id?"},

	{"twice", head + "agent: {id: a}\nlog: {level: info}\nagent: {id: b}\n", "agent", 4, "second time; the first is on line 2", "remove one"},
	{"twice, deep", head + "proxy:\n  drain: 1s\n  drain: 2s\n", "proxy.drain", 4, "second time; the first is on line 3", ""},
	{"twice in a map", head + "proxy:\n  resolve:\n    a.test: 127.0.0.1\n    a.test: 127.0.0.2\n", `proxy.resolve["a.test"]`, 5, "second time", ""},
	{"twice in json", "{\"version\": 1, \"log\": {\"level\": \"info\",\n\"level\": \"warn\"}}", "log.level", 2, "second time", ""},

	{"section is a word", head + "agent: me\n", "agent", 2, "must hold names with values", "name: value"},
	{"section is a list", head + "proxy: [a]\n", "proxy", 2, "must hold names with values", ""},
	{"list is a word", head + "proxy: {passthrough: a.example}\n", "proxy.passthrough", 2, "must be a list", "[a, b]"},
	{"list is a map", head + "tools: {name: a}\n", "tools", 2, "must be a list", ""},
	{"empty entry", head + "tools:\n- \n", "tools[0]", 3, "is empty", "fill the entry in or remove it"},
	{"text is a list", head + "agent: {id: [a]}\n", "agent.id", 2, "must be text, not a list", ""},
	{"text is a map", head + "agent: {id: {a: b}}\n", "agent.id", 2, "must be text, not names with values", ""},
	{"bool is a word", head + "tools: [{name: a, url: https://h/a, private: maybe}]\n", "tools[0].private", 2, "must be true or false", ""},
	{"bool is quoted", head + "tools: [{name: a, url: https://h/a, private: \"true\"}]\n", "tools[0].private", 2, "must be true or false", "without quotes"},
	{"bool is yes", head + "tools: [{name: a, url: https://h/a, private: yes}]\n", "tools[0].private", 2, "must be true or false", ""},
	{"int is a word", head + "limits: {waiters: many}\n", "limits.waiters", 2, "must be a whole number", ""},
	{"int is a float", head + "limits: {waiters: 1.5}\n", "limits.waiters", 2, "must be a whole number", ""},
	{"int is too large", head + "limits: {waiters: 99999999999999999999}\n", "limits.waiters", 2, "whole number", ""},
	{"int has underscores", head + "store: {embedded: {max_keys: 1_000}}\n", "store.embedded.max_keys", 2, "whole number", ""},
	{"int is octal", head + "limits: {waiters: 0o17}\n", "limits.waiters", 2, "whole number", ""},

	{"duration without unit", head + "proxy:\n  drain: 5\n", "proxy.drain", 3, "the bare number 5 has no unit", "write 5s"},
	{"duration as float", head + "proxy: {drain: 1.5}\n", "proxy.drain", 2, "the bare number 1.5 has no unit", ""},
	{"duration without unit, quoted", head + "proxy: {drain: \"5\"}\n", "proxy.drain", 2, `"5" is not a duration`, "15s"},
	{"duration zero, quoted", head + "proxy: {drain: \"0\"}\n", "proxy.drain", 2, `"0" is not a duration`, ""},
	{"duration is a word", head + "proxy: {drain: soon}\n", "proxy.drain", 2, `"soon" is not a duration`, ""},
	{"duration negative", head + "proxy: {drain: -5s}\n", "proxy.drain", 2, "is negative", ""},
	{"duration too long", head + "proxy: {drain: 200000d}\n", "proxy.drain", 2, "is not a duration", ""},
	{"duration in a list", head + "tools: [{name: a, url: https://h/a, dedup: {ttl: 24}}]\n", "tools[0].dedup.ttl", 2, "bare number 24", ""},
	{"size without unit", head + "proxy: {max_request_bytes: 1048576}\n", "proxy.max_request_bytes", 2, "bare number", "1048576B"},
	{"size of decimal unit", head + "proxy: {max_request_bytes: 8MB}\n", "proxy.max_request_bytes", 2, "8MB", ""},
	{"money with seven decimals", head + "tools:\n- {name: a, url: https://h/a, price_usd: 0.1234567}\n", "tools[0].price_usd", 3, "more than six decimals", ""},
	{"money negative", head + "tools:\n- {name: a, url: https://h/a, price_usd: -1}\n", "tools[0].price_usd", 3, "negative", ""},
	{"money is a word", head + "policies:\n- {agent_id: a, max_spend_usd_per_day: lots}\n", "policies[0].max_spend_usd_per_day", 3, "not an amount", ""},
	{"money as a power", head + "tools:\n- {name: a, url: https://h/a, price_usd: 1e3}\n", "tools[0].price_usd", 3, "not an amount", ""},
	{"not among the words", head + "store: {kind: embeded}\n", "store.kind", 2, `"embeded" is not one of embedded, redis`, "did you mean embedded?"},
	{"not among the words, in a list", head + "api:\n  keys:\n  - {name: a, role: admin, key: 0123456789abcdef}\n", "api.keys[0].role", 4, "not one of agent, operator", ""},
	{"unknown template", head + "policies:\n- agent_id: a\n  template: modrate\n", "policies[0].template", 4, `"modrate" is not one of`, "did you mean moderate?"},
	{"unknown effect", head + "tools:\n- {name: a, url: https://h/a, effect: mutatng}\n", "tools[0].effect", 3, "not one of read, idempotent, mutating", "did you mean mutating?"},

	{"variable unset", head + "agent: {id: \"${env:NOT_SET}\"}\n", "agent.id", 2, "the environment variable NOT_SET is not set", ""},
	{"variable unset, in a list", head + "proxy:\n  hosts:\n  - a.test\n  - ${env:NOT_SET}\n", "proxy.hosts[1]", 5, "NOT_SET is not set", ""},
	{"file absent", head + "agent: {id: \"${file:/nonexistent/x}\"}\n", "agent.id", 2, "${file:/nonexistent/x} cannot be read: no such file", ""},
	{"file is a directory", head + "agent: {id: \"${file:/}\"}\n", "agent.id", 2, "cannot be read: is a directory", ""},
	{"file relative", head + "agent: {id: \"${file:x}\"}\n", "agent.id", 2, "not absolute", ""},
	{"reference of no kind", head + "agent: {id: \"${HOME}\"}\n", "agent.id", 2, "write ${env:HOME}", ""},
	{"reference of another kind", head + "agent: {id: \"${vault:x}\"}\n", "agent.id", 2, `"vault" is neither env nor file`, ""},
	{"reference without end", head + "agent: {id: \"${env:X\"}\n", "agent.id", 2, "without }", "$${"},
}

var wholes = []wrong{
	{"listener without port", head + "proxy: {listen: 127.0.0.1}\n", "proxy.listen", 2, `"127.0.0.1" is not host:port`, "127.0.0.1:4780"},
	{"listener with a name", head + "api: {listen: \"example.com:1\"}\n", "api.listen", 2, "no address of this machine", ""},
	{"listener with no port", head + "api: {listen: \"127.0.0.1:http\"}\n", "api.listen", 2, `"http" is no port`, ""},
	{"listener with too high a port", head + "health: {listen: \"127.0.0.1:70000\"}\n", "health.listen", 2, "is no port", ""},
	{"listeners are the same", head + "proxy: {listen: \"127.0.0.1:9\"}\nhealth: {listen: \"127.0.0.1:9\"}\n", "health.listen", 3, "already where proxy.listen listens", "own port"},
	{"listeners overlap", head + "api: {listen: \"localhost:9\"}\nhealth: {listen: \"[::]:9\"}\n", "health.listen", 3, "already where api.listen listens", ""},
	{"agent empty", head + "agent: {id: \"\"}\n", "agent.id", 2, "is empty", ""},
	{"agent is all", head + "agent: {id: \"*\"}\n", "agent.id", 2, "stands for all agents", ""},
	{"agent with a space", head + "agent: {id: a b}\n", "agent.id", 2, "holds a space", ""},
	{"agent too long", head + "agent: {id: " + strings.Repeat("a", 129) + "}\n", "agent.id", 2, "longer than 128", ""},
	{"token short", head + "agent:\n  proxy_users:\n    a: short\n", "agent.proxy_users.a", 4, "the token has 5 characters", "at least 16"},
	{"token empty", head + "agent:\n  proxy_users:\n    a: \"\"\n", "agent.proxy_users.a", 4, "is empty", "${env:NAME}"},
	{"token twice", head + "agent:\n  proxy_users:\n    a: 0123456789abcdef\n    b: 0123456789abcdef\n", "agent.proxy_users.b", 5, "token of another user", ""},
	{"proxy user with a colon", head + "agent:\n  proxy_users:\n    \"a:b\": 0123456789abcdef\n", `agent.proxy_users["a…"]`, 4, "colon", ""},
	{"key without name", head + "api:\n  keys:\n  - {role: operator, key: 0123456789abcdef}\n", "api.keys[0].name", 4, "is missing", ""},
	{"key without role", head + "api:\n  keys:\n  - {name: a, key: 0123456789abcdef}\n", "api.keys[0].role", 4, "is missing", "agent, operator or sidecar"},
	{"key short", head + "api:\n  keys:\n  - {name: a, role: operator, key: x}\n", "api.keys[0].key", 4, "the key has 1 characters", "at least 16"},
	{"key absent", head + "api:\n  keys:\n  - {name: a, role: operator}\n", "api.keys[0].key", 4, "the key is empty", ""},
	{"key with a line break", head + "api:\n  keys:\n  - {name: a, role: operator, key: \"0123456789\\nabcdef\"}\n", "api.keys[0].key", 4, "line break", ""},
	{"names twice", head + "api:\n  keys:\n  - {name: a, role: operator, key: 0123456789abcdef}\n  - {name: a, role: operator, key: 0123456789abcdeg}\n", "api.keys[1].name", 5, `"a" is also the name of api.keys[0]`, ""},
	{"keys twice", head + "api:\n  keys:\n  - {name: a, role: operator, key: 0123456789abcdef}\n  - {name: b, role: agent, key: 0123456789abcdef}\n", "api.keys[1].key", 5, "also the key of api.keys[0]", ""},
	{"operator for an agent", head + "api:\n  keys:\n  - {name: a, role: operator, agent_id: b, key: 0123456789abcdef}\n", "api.keys[0].agent_id", 4, "speaks for no agent", ""},
	{"rate", head + "api:\n  keys:\n  - {name: a, role: agent, rate: fast, key: 0123456789abcdef}\n", "api.keys[0].rate", 4, `"fast" is not a rate`, "600/m"},
	{"namespace", head + "api:\n  keys:\n  - {name: a, role: agent, namespace: a/b, key: 0123456789abcdef}\n", "api.keys[0].namespace", 4, "no namespace", ""},
	{"cidr", head + "proxy:\n  allow_private:\n  - 10.0.0.0/8\n  - 10.0.0/8\n", "proxy.allow_private[1]", 5, `"10.0.0/8" is no address range`, ""},
	{"address as cidr", head + "proxy: {allow_private: [10.0.0.1]}\n", "proxy.allow_private[0]", 2, "no address range", "10.0.0.1/32"},
	{"cidr with bits", head + "proxy: {allow_private: [10.0.0.1/8]}\n", "proxy.allow_private[0]", 2, "bits set", "10.0.0.0/8"},
	{"resolve to a name", head + "proxy: {resolve: {a.test: b.test}}\n", "proxy.resolve[\"a.test\"]", 2, `"b.test" is no address`, ""},
	{"resolve to a port", head + "proxy: {resolve: {a.test: \"127.0.0.1:80\"}}\n", "proxy.resolve[\"a.test\"]", 2, "is no address", "without port"},
	{"resolve a URL", head + "proxy: {resolve: {\"http://a.test\": 127.0.0.1}}\n", "proxy.resolve[\"http://a.test\"]", 2, "is no host", ""},
	{"passthrough a URL", head + "proxy: {passthrough: [\"https://a.test/\"]}\n", "proxy.passthrough[0]", 2, "is no host", "model-apis"},
	{"hosts with a port", head + "proxy: {hosts: [\"a.test:80\"]}\n", "proxy.hosts[0]", 2, "is no host", ""},
	{"via", head + "proxy: {via: \"user:pa55word@proxy\"}\n", "proxy.via", 2, "is not the URL of a proxy", "http://host:port"},
	{"upstream_ca absent", head + "proxy: {upstream_ca: /nonexistent/ca.pem}\n", "proxy.upstream_ca", 2, "cannot be read: no such file", "PEM"},
	{"upstream_ca is no certificate", head + "proxy: {upstream_ca: /dev/null}\n", "proxy.upstream_ca", 2, "holds no certificate", ""},
	{"drain is unknown and no drain", head + "proxy: {drian: 1s}\n", "proxy.drian", 2, "unknown key", "did you mean drain?"},
	{"intercept hosts", head + "proxy: {intercept: {hosts: [all, a.test]}}\n", "proxy.intercept.hosts[0]", 2, "stands alone", ""},
	{"intercept host", head + "proxy: {intercept: {hosts: [\"a b\"]}}\n", "proxy.intercept.hosts[0]", 2, "is no host", ""},
	{"intercept nothing", head + "proxy: {intercept: {hosts: []}}\n", "proxy.intercept.hosts", 2, "is empty", "registered"},
	{"the CA's key for everybody", head + "proxy: {intercept: {ca_dir: /shared/ca, ca_out: /shared}}\n", "proxy.intercept.ca_out", 2, "the CA's key would lie", "ca_key: memory"},
	{"the CA's key for everybody by default", head + "proxy: {intercept: {ca_out: /var/lib/oo-sidecar/ca/}}\n", "proxy.intercept.ca_out", 2, "the CA's key would lie", ""},
	{"retention", head + "store: {embedded: {retention: 0s}}\n", "store.embedded.retention", 2, "more than zero", ""},
	{"max_bytes", head + "store: {embedded: {max_bytes: 1KiB}}\n", "store.embedded.max_bytes", 2, "at least 16MiB", ""},
	{"max_keys", head + "store: {embedded: {max_keys: 0}}\n", "store.embedded.max_keys", 2, "at least 1", ""},
	{"dir", head + "store: {embedded: {dir: \"\"}}\n", "store.embedded.dir", 2, "is empty", ""},
	{"seal_key", head + "store: {seal_key: short}\n", "store.seal_key", 2, "has 5 characters", ""},
	{"redis without addresses", redisHead + "addrs: []}}\n", "store.redis.addrs", 2, "is empty", ""},
	{"redis roots absent", redisHead + "tls: true, tls_ca: /nonexistent/ca.pem}}\n", "store.redis.tls_ca", 2, "cannot be read: no such file", "PEM"},
	{"redis address", redisHead + "addrs: [\"redis://a:1\"]}}\n", "store.redis.addrs[0]", 2, "no host:port", ""},
	{"redis two servers", redisHead + "addrs: [a:1, b:1]}}\n", "store.redis.addrs", 2, "2 addresses of one server", "mode: sentinel"},
	{"redis cluster db", redisHead + "mode: cluster, db: 1}}\n", "store.redis.db", 2, "database 0 only", "remove it"},
	{"redis db", redisHead + "db: -1}}\n", "store.redis.db", 2, "0 or more", ""},
	{"redis sentinel", redisHead + "mode: sentinel}}\n", "store.redis.sentinel_master", 2, "is empty", ""},
	{"redis tls", redisHead + "tls_ca: /ca.pem}}\n", "store.redis.tls_ca", 2, "tls is off", "tls: true"},
	{"redis prefix", redisHead + "prefix: \"a*\"}}\n", "store.redis.prefix", 2, "up to 64", ""},
	{"redis replicas", redisHead + "wait_replicas: -1}}\n", "store.redis.wait_replicas", 2, "0 or more", ""},
	{"redis answer_ttl", redisHead + "answer_ttl: 0s}}\n", "store.redis.answer_ttl", 2, "more than zero", ""},
	{"redis hold", redisHead + "hold: 2m}}\n", "store.redis.hold", 2, "0s to 1m", ""},
	{"redis poll", redisHead + "poll: 1ms}}\n", "store.redis.poll", 2, "50ms to 1m", ""},
	{"redis shard", redisHead + "shard: agent}}\ntools:\n- name: a\n  url: https://h/a\n  dedup: {scope: run}\n", "tools[0].dedup.scope", 6, "run is wider than one agent", "scope: agent"},
	{"control", head + "control:\n  base_url: x\n  api_key: 0123456789abcdef\n", "control.base_url", 3, "is not the address of an API", ""},
	{"control without a key", head + "control:\n  base_url: https://x\n", "control.api_key", 2, "is missing", ""},
	{"control remote over redis", head + "store: {kind: redis, seal_key: 0123456789abcdef0123456789abcdef}\ncontrol:\n  base_url: https://control.internal\n  api_key: 0123456789abcdef\n  lease: remote\n", "control.lease", 6, "two judges", "lease: local"},
	{"control key with a line break", head + "control:\n  base_url: https://x\n  api_key: \"0123456789\\n\"\n", "control.api_key", 4, "line break", ""},
	{"control key of nobody", head + "control:\n  poll: 1s\n  api_key: 0123456789abcdef\n", "control.api_key", 4, "there is none", "base_url"},
	{"control key secret of nobody", head + "control: {key_secret: 0123456789abcdef}\n", "control.key_secret", 2, "there is none", ""},
	{"control results of nobody", head + "control: {results: true}\n", "control.results", 2, "there is none", ""},
	{"control credentials of nobody", head + "control: {credentials: [{tool: a, host: h, secrets: [0123456789abcdef]}]}\n", "control.credentials", 2, "there is none", ""},
	{"credential of nothing", controlHead + "credentials: [{tool: a, host: h}]}\n", "control.credentials[0]", 2, "neither secrets nor headers", "remove the entry"},
	{"credential for no host", controlHead + "credentials: [{tool: a, secrets: [0123456789abcdef]}]}\n", "control.credentials[0].host", 2, "is missing", ""},
	{"credential headers for no host", controlHead + "credentials: [{tool: a, headers: {X-Key: \"1\"}}]}\n", "control.credentials[0].host", 2, "is missing", ""},
	{"credential for no tool", controlHead + "credentials: [{host: h, secrets: [0123456789abcdef]}]}\n", "control.credentials[0].tool", 2, "is missing", ""},
	{"credentials twice", controlHead + "credentials: [{tool: a, host: h, secrets: [0123456789abcdef]}, {tool: a, host: h, secrets: [0123456789abcdeg]}]}\n", "control.credentials[1].tool", 2, "already", ""},
	{"control remote of nobody", head + "control:\n  lease: remote\n", "control.lease", 3, "need a control plane", "lease: local"},
	{"waiters", head + "limits: {waiters: -1}\n", "limits.waiters", 2, "at least 1", ""},
	{"no waiters", head + "limits: {waiters: 0}\n", "limits.waiters", 2, "at least 1", ""},
	{"large header_bytes", head + "limits: {header_bytes: 1GiB}\n", "limits.header_bytes", 2, "at most 1MiB", ""},
	{"header_bytes", head + "limits: {header_bytes: 0B}\n", "limits.header_bytes", 2, "at least 1KiB", ""},

	{"tool without url", head + "tools:\n- name: a\n", "tools[0].url", 3, "is missing", ""},
	{"tool without name", head + "tools:\n- url: https://h/a\n", "tools[0].name", 3, "no tool name", ""},
	{"tool misnamed", head + "tools:\n- name: a b\n  url: https://h/a\n", "tools[0].name", 3, "no tool name", ""},
	{"tool url", head + "tools:\n- name: a\n  url: ftp://h/a\n", "tools[0].url", 4, "http or https", ""},
	{"tool url with a pattern", head + "tools:\n- name: a\n  url: https://h/{a}\n", "tools[0].url", 4, "patterns belong into match", ""},
	{"tool match", head + "tools:\n- name: a\n  url: https://h/a\n  match:\n  - url: https://h/{x...}/b\n", "tools[0].match[0].url", 6, "before the end", ""},
	{"colon forgotten", head + "api: {keys: [{name: a, role: agent, key 0123456789abcdef}]}\n", "api.keys[0].key…", 2, `unknown key "key…"`, "did you mean key?"},
	{"colon forgotten in a map", head + "tools:\n- name: a\n  url: https://h/a\n  headers: {Authorization:0123456789abcdef}\n", `tools[0].headers["Authorization…"]`, 5, "has no value", ""},
	{"no address", head + "proxy:\n  resolve:\n    a:\n", "proxy.resolve.a", 4, "has no value", ""},

	{"tool scope", head + "tools:\n- name: a\n  url: https://h/a\n  scope: mine\n", "tools[0].scope", 5, "not a scope", ""},
	{"tool runs nothing", head + "tools:\n- name: a\n  url: https://h/a\n  max_in_flight: 0\n", "tools[0].max_in_flight", 5, "no call run", "enabled: false"},
	{"tool runs less than nothing", head + "tools:\n- name: a\n  url: https://h/a\n  max_in_flight: -1\n", "tools[0].max_in_flight", 5, "negative", ""},
	{"tool without time", head + "tools:\n- name: a\n  url: https://h/a\n  timeout: 0s\n", "tools[0].timeout", 5, "more than zero", "15s"},
	{"tool matches nothing", head + "tools:\n- name: a\n  url: https://h/a\n  match: []\n", "tools[0].match", 5, "selects nothing", "POST on url"},
	{"tool matches no method", head + "tools:\n- name: a\n  url: https://h/a\n  match:\n  - url: https://h/a\n    methods: []\n", "tools[0].match[0].methods", 7, "selects nothing", "POST"},
	{"tool is the sidecar", head + "tools:\n- name: a\n  url: http://127.0.0.1:4781/v1/ai/run\n", "tools[0].url", 4, "where api.listen listens", ""},
	{"tool is the sidecar, by name", head + "proxy: {resolve: {a.test: 127.0.0.1}}\ntools:\n- name: a\n  url: http://a.test:4780/\n", "tools[0].url", 5, "where proxy.listen listens", ""},
	{"tool is the sidecar on every address", head + "health: {listen: \"[::]:4782\"}\ntools:\n- name: a\n  url: http://localhost:4782/\n", "tools[0].url", 5, "where health.listen listens", ""},
	{"via itself", head + "proxy: {via: \"http://127.0.0.1:4780\"}\n", "proxy.via", 2, "come back to it", ""},
	{"controlled by itself", head + "control: {base_url: \"http://localhost:4781\", api_key: 0123456789abcdef}\n", "control.base_url", 2, "this sidecar itself", ""},
	{"one host twice", head + "proxy: {resolve: {A.test: 127.0.0.1, a.test: 127.0.0.2}}\n", "proxy.resolve[\"a.test\"]", 2, "host of proxy.resolve[\"A.test\"] too", "keep one"},
	{"answer_bytes", head + "limits: {answer_bytes: 1GiB}\n", "limits.answer_bytes", 2, "at most 32MiB", ""},
	{"tunnel_idle", head + "proxy: {tunnel_idle: 1ns}\n", "proxy.tunnel_idle", 2, "at least 100ms", ""},
	{"dir is a file", head + "store: {embedded: {dir: /dev/null}}\n", "store.embedded.dir", 2, "is no directory", ""},
	{"tool matches twice", head + "tools:\n- name: a\n  url: https://h/a\n  match: [{url: https://h/b}, {url: https://h/b}]\n", "tools[0].match", 5, "neither is more specific", ""},
	{"tool retries", head + "tools:\n- name: a\n  url: https://h/a\n  max_retries: -1\n", "tools[0].max_retries", 5, "out of range", ""},
	{"tool secrets", head + "tools:\n- name: a\n  url: https://h/a\n  auth: {type: hmac_sha256}\n", "tools[0].auth.secrets", 5, "is empty", ""},
	{"tool upstream_key", head + "tools:\n- name: a\n  url: https://h/a\n  upstream_key: {cookie: x}\n", "tools[0].upstream_key", 5, "not understood", ""},
	{"tool upstream_key is a list", head + "tools:\n- name: a\n  url: https://h/a\n  upstream_key: [x]\n", "tools[0].upstream_key", 5, "not understood", ""},
	{"secret in the clear", head + "tools:\n- name: a\n  url: http://tool.test/a\n  headers: {Authorization: Bearer x}\n", "tools[0].headers", 5, "in the clear", "allow_private"},
	{"signature in the clear", head + "tools:\n- name: a\n  url: http://8.8.8.8/a\n  auth: {type: hmac_sha256, secrets: [0123456789abcdef]}\n", "tools[0].auth", 5, "in the clear", ""},
	{"tools twice", head + "tools:\n- name: a\n  url: https://h/a\n- name: a\n  url: https://h/b\n", "tools[1].name", 5, "stands there twice", ""},
	{"tools collide", head + "tools:\n- name: a\n  url: https://h/a\n- name: b\n  url: https://h/a\n", "tools[1].match", 5, "neither is more specific", ""},
	{"one secret, two tools", head + "tools:\n- {name: a, url: https://h/a, auth: &x {type: hmac_sha256, secrets: [0123456789abcdef]}}\n- name: b\n  url: https://h/b\n  auth: *x\n", "tools[1].auth.secrets", 3, "also tool a's", ""},
	{"policy for nobody", head + "policies:\n- template: strict\n", "policies[0].agent_id", 3, "is missing", ""},
	{"policies twice", head + "policies:\n- agent_id: a\n- agent_id: a\n", "policies[1].agent_id", 4, `"a" has a policy already: policies[0]`, ""},
	{"policy cap", head + "policies:\n- agent_id: a\n  max_actions_per_hour: -1\n", "policies[0].max_actions_per_hour", 4, "negative", ""},
	{"policy per tool", head + "policies:\n- agent_id: a\n  max_calls_per_tool: {x: -1}\n", "policies[0].max_calls_per_tool.x", 4, "negative", ""},
	{"price rule without a price", head + "policies:\n- agent_id: a\n  pricing_rules:\n  - tool: \"POST:h\"\n", "policies[0].pricing_rules[0].price_usd", 5, "is missing", "0.001"},
	{"price rule without a tool", head + "policies:\n- agent_id: a\n  pricing_rules:\n  - price_usd: 1\n", "policies[0].pricing_rules", 4, "no tool name", ""},
	{"price rules twice", head + "policies:\n- agent_id: a\n  pricing_rules:\n  - {tool: \"POST:h\", price_usd: 1}\n  - {tool: \"POST:h\", price_usd: 2}\n", "policies[0].pricing_rules[1].tool", 6, "has a price already", "keep one"},
	{"policy pattern", head + "policies:\n- agent_id: a\n  blocked_tools: [\"*x\"]\n", "policies[0].blocked_tools", 4, "may only end it", ""},
}

// TestWrong: each way is told once, at its place, by its name, with its mend; and nothing else is.
func TestWrong(t *testing.T) {
	for _, w := range append(shapes, wholes...) {
		t.Run(w.name, func(t *testing.T) {
			path := write(t, w.text)
			_, _, err := Load(path, nil, nil)
			problems := Problems(err)
			if len(problems) != 1 {
				t.Fatalf("%d problems: %v", len(problems), err)
			}
			p := problems[0]
			if p.File != path || p.Line != w.line || p.Key != w.key {
				t.Errorf("at %s, line %d, key %s; want line %d, key %s: %v", p.File, p.Line, p.Key, w.line, w.key, p)
			}
			if !strings.Contains(p.Message, w.message) || !strings.Contains(p.Message+p.Mend, w.mend) {
				t.Errorf("%q; want %q and %q", p.Error(), w.message, w.mend)
			}
			if p.Line > 0 && p.Column == 0 {
				t.Error("no column")
			}
		})
	}
}

// TestAllAtOnce: a file with several problems tells them all, in order.
func TestAllAtOnce(t *testing.T) {
	path := write(t, head+`agent: {id: "*"}
proxy:
  drain: 5
  listn: a
api: {listen: nowhere}
tools:
- {name: a, url: https://h/a, dedup: {ttl: 5}}
- {name: b c, url: "https://h/b"}
`)
	_, _, err := Load(path, []string{"OO_LOG__LEVEL=loud"}, nil)
	var keys []string
	for _, p := range Problems(err) {
		keys = append(keys, p.Key)
	}
	want := "log.level agent.id proxy.drain proxy.listn api.listen tools[0].dedup.ttl tools[1].name"
	if strings.Join(keys, " ") != want {
		t.Errorf("%v\nwant %s", keys, want)
	}
	for _, line := range strings.Split(err.Error(), "\n")[1:] {
		if !strings.HasPrefix(line, path+":") {
			t.Errorf("without its place: %s", line)
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for path, message := range map[string]string{
		filepath.Join(dir, "absent.yaml"): "no such file",
		dir:                               "is a directory",
	} {
		_, _, err := Load(path, nil, nil)
		if p := Problems(err); len(p) != 1 || p[0].File != path || !strings.Contains(p[0].Message, message) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if os.Geteuid() == 0 {
		return // who may read everything cannot be refused
	}
	path := write(t, head)
	os.Chmod(path, 0)
	if _, _, err := Load(path, nil, nil); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Error(err)
	}
}

// TestBombs: a small file must not become a large configuration, nor an endless one.
func TestBombs(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString(head + "tools:\n- name: a\n  upstream_key:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		p, n := string(rune('0'+i-1)), string(rune('0'+i))
		bomb.WriteString("    a" + n + ": &a" + n + " [" + strings.Repeat("*a"+p+", ", 9) + "*a" + p + "]\n")
	}
	for name, text := range map[string]string{
		"billion laughs": bomb.String(),
		"cycle":          head + "tools:\n- name: a\n  upstream_key: &a [*a]\n",
		"merged cycle":   head + "agent: &a\n  <<: *a\n",
		"deep":           head + "agent: " + strings.Repeat("[", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := Load(write(t, text), nil, nil); err == nil {
				t.Error("it was accepted")
			} else if len(err.Error()) > 4000 {
				t.Errorf("%d bytes of complaints", len(err.Error()))
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, test := range []struct{ text, key, message string }{
		{"proxy: {listen: 0.0.0.0:4780}\n", "proxy.listen", "can be reached from other machines"},
		{"api: {listen: \":4781\"}\n", "api.listen", "can be reached from other machines"},
		{"proxy: {allow_private: [0.0.0.0/0]}\n", "proxy.allow_private[0]", "every address"},
		{"agent: {proxy_users: {a: 0123456789abcdef}}\n", "agent.proxy_users.a", "a secret stands in the file"},
		{"api: {keys: [{name: a, role: operator, key: 0123456789abcdef}]}\n", "api.keys[0].key", "a secret stands in the file"},
		{"store: {seal_key: 0123456789abcdef}\n", "store.seal_key", "a secret stands in the file"},
		{"store: {kind: redis}\n", "store.seal_key", "secrets of tools cannot be set"},
		{"store: {redis: {password: x}}\n", "store.redis.password", "a secret stands in the file"},
		{"store: {redis: {addrs: [\"redis:6379\"]}}\n", "store.redis.addrs", "is not used"},
		{"store: {kind: redis, seal_key: \"${env:S}\", redis: {username: me}}\n", "store.redis.password", "is empty"},
		{"policies: [{agent_id: a, pricing_rules: [{tool: \"POST:h\", price_usd: 0}]}]\n", "policies[0].pricing_rules[0].price_usd", "changes nothing"},
		{"policies: [{agent_id: a, allowed_tools: [\"a.*\", \"b.*\"], blocked_tools: [\"b*\"]}]\n", "policies[0].allowed_tools[1]", "permits nothing"},
		{"policies: [{agent_id: a, blocked_tools: [\"b*\", \"b*\"]}]\n", "policies[0].blocked_tools[1]", "stands there twice"},
		{"tools: [{name: a, url: https://169.254.169.254/latest}]\n", "tools[0].url", "metadata service"},
		{"{proxy: {resolve: {a.test: 169.254.169.254}}, tools: [{name: a, url: https://a.test/}]}\n", "tools[0].url", "metadata service"},
		{"tools: [{name: a, url: https://h/a, dedup: {ttl: 1s}}]\n", "tools[0].dedup.ttl", "runs again"},
		{"{agent: {id: billing-agent}, policies: [{agent_id: biling-agent}]}\n", "policies[0].agent_id", "no agent \"biling-agent\" is known"},
		{"{agent: {id: billing-agent}, tools: [{name: a, url: https://h/a, scope: \"agent:biling-agent\"}]}\n", "tools[0].scope", "no agent"},
		{"control: {base_url: https://x, api_key: x}\n", "control.api_key", "a secret stands in the file"},
		{"tools: [{name: a, url: https://h/a, auth: {type: hmac_sha256, secrets: [0123456789abcdef]}}]\n", "tools[0].auth.secrets[0]", "a secret stands in the file"},
		{"tools: [{name: a, url: https://h/a, headers: {X-Api-Key: abc}}]\n", "tools[0].headers.X-Api-Key", "a secret stands in the file"},
	} {
		text := head + test.text
		if rest, whole := strings.CutPrefix(test.text, "{"); whole {
			text = "\n{version: 1, " + rest
		}
		_, warnings, err := Load(write(t, text), []string{"S=0123456789abcdef0123456789abcdef"}, nil)
		if err != nil || len(warnings) != 1 {
			t.Errorf("%s%v %v", test.text, warnings, err)
			continue
		}
		if w := warnings[0]; w.Key != test.key || w.Line != 2 || !strings.Contains(w.Message, test.message) {
			t.Errorf("%s%v", test.text, w)
		}
	}
	for _, text := range []string{
		"tools: [{name: a, url: https://h/a, headers: {Stripe-Version: 2024-01-01}}]\n",
		"tools: [{name: a, url: https://h/a, headers: {Authorization: \"Bearer ${env:S}\"}}]\n",
		"health: {listen: \"[::]:4782\"}\n",
		"policies: [{agent_id: support-agent}, {agent_id: \"*\"}]\n",
		"policies: [{agent_id: a, allowed_tools: [\"b*\"], blocked_tools: [\"b.c*\"]}]\n",
		"store: {redis: {password: \"\"}}\n",
	} {
		if _, warnings, err := Load(write(t, head+text), []string{"S=secret"}, nil); err != nil || len(warnings) > 0 {
			t.Errorf("%s%v %v", text, warnings, err)
		}
	}
	_, warnings, err := Load(write(t, head), []string{"OO_STORE__SEAL_KEY=0123456789abcdef"}, nil)
	if err != nil || len(warnings) > 0 {
		t.Errorf("a secret of the environment does not stand in the file: %v %v", warnings, err)
	}
}
