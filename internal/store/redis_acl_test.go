package store

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// aclLine is the line that the README gives, for the prefix oo: and with <password> to be replaced.
func aclLine(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^user oo-sidecar .*$`).FindString(string(text))
	if line == "" {
		t.Fatal("the README gives no ACL line")
	}
	return line
}

// limited makes the README's user on the server, with changes, for a prefix.
func limited(t *testing.T, s *redistest.Server, prefix string, change ...string) RedisConfig {
	t.Helper()
	line := strings.NewReplacer("oo:*", prefix+"*", "<password>", "secret").Replace(aclLine(t))
	s.Do(append([]string{"ACL", "SETUSER"}, append(strings.Fields(line)[1:], change...)...)...)
	return RedisConfig{Addrs: []string{s.Addr}, Username: "oo-sidecar", Password: "secret", Prefix: prefix}
}

// TestRedisACL holds the store to the law as the README's user, who can reach no other key and no other channel.
func TestRedisACL(t *testing.T) {
	s := redistest.Start(t)
	cfg := limited(t, s, "t")
	cfg.Strict = true
	t.Run("law", func(t *testing.T) { lawOn(t, cfg) })
	t.Run("shared", func(t *testing.T) { checkShared(t, cfg) })
	cfg.Prefix = "t:"
	c := dialTest(t, cfg)
	if _, err := c.do(t.Context(), "GET", "other:{t}:key"); !errors.Is(err, errNotExecuted) || !denied(err) {
		t.Errorf("another prefix: %v", err)
	}
	if _, err := c.do(t.Context(), "FLUSHALL"); !denied(err) {
		t.Errorf("FLUSHALL: %v", err)
	}
	if log, _ := s.Do("ACL", "LOG").([]any); len(log) != 2 {
		t.Errorf("refused to the user: %v", log)
	}
}

// checkShared does what the law of claims does not: switch, leases, locks and jobs.
func checkShared(t *testing.T, cfg RedisConfig) {
	t.Helper()
	cfg.Prefix = "tshared:"
	one, other := joinShared(t, cfg, sharedOptions{Owner: "one", Poll: time.Minute}), joinShared(t, cfg, sharedOptions{Owner: "other", Poll: time.Minute})
	if _, err := one.Disable(t.Context(), "a", "test", "me"); err != nil {
		t.Error(err)
	}
	until(t, "the switch arrives by push", func() bool { return isOff(other, "a") })
	if _, err := one.Enable(t.Context(), "a", "test", "me"); err != nil {
		t.Error(err)
	}
	n := lease.Name{Tenant: "default", Key: "k"}
	if _, taken, err := one.Lock(t.Context(), n, time.Minute); err != nil || !taken {
		t.Error(taken, err)
	}
	if _, v, err := one.Acquire(t.Context(), n, lease.Claim{ID: "a", TTL: time.Minute, Job: &lease.Job{Run: "r"}}); err != nil || v != lease.Acquired {
		t.Error(v, err)
	}
	if len(one.Jobs()) != 1 {
		t.Error("the job is not there")
	}
	if _, err := one.Apply(t.Context(), n, lease.Step{Act: lease.Complete, ID: "a"}); err != nil {
		t.Error(err)
	}
}

// TestRedisACLUnchecked: a user that may not look is not refused, unless `strict` is set; what was not looked at is said.
func TestRedisACLUnchecked(t *testing.T) {
	s := redistest.Start(t)
	for _, c := range []struct{ deny, says string }{
		{"-config|get", "appendfsync is not known: allow the Redis user +config|get"},
		{"-info", "allow the Redis user +info"},
	} {
		cfg := limited(t, s, "t:", c.deny)
		client := dialTest(t, cfg)
		if got, err := client.run(t.Context(), count, []string{client.key("acl")}); err != nil {
			t.Errorf("%s: %v, %v", c.deny, got, err)
		}
		if j := client.judgement(); len(j.Unchecked) != 1 || !strings.Contains(j.Unchecked[0], c.says) || j.Refused != nil {
			t.Errorf("%s: %+v", c.deny, j)
		}
		cfg.Strict = true
		strict, err := dialRedis(t.Context(), cfg, nil)
		if err == nil {
			_ = strict.close()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, strict: %v", c.deny, err)
		}
	}
}
