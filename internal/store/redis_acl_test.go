package store

import (
	"errors"
	"fmt"
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

// TestRedisACLLacks: a user that lacks a command is told at the start which, and how to allow it.
func TestRedisACLLacks(t *testing.T) {
	s := redistest.Start(t)
	start := func(cfg RedisConfig) error {
		client, err := dialRedis(t.Context(), cfg, nil)
		if err == nil {
			_ = client.close()
		}
		return err
	}
	allowed := regexp.MustCompile(`\+(\S+)`).FindAllStringSubmatch(aclLine(t), -1)
	if len(allowed) < 20 {
		t.Fatal(allowed)
	}
	tried := 0
	for _, command := range allowed {
		cfg := limited(t, s, "t:", "-"+command[1])
		err := start(cfg)
		switch command[1] {
		case "info", "config|get", "wait", "asking", "cluster|slots": // looked at elsewhere, or not needed here
			if err != nil {
				t.Errorf("without %s: %v", command[1], err)
			}
			continue
		case "xadd", "subscribe":
			if err != nil {
				t.Errorf("without %s: %v", command[1], err)
			}
			cfg.Strict = true
			err = start(cfg)
		}
		tried++
		if err == nil || !errors.Is(err, errRefused) || !strings.Contains(err.Error(), command[1]) || !strings.Contains(err.Error(), "Redis user") {
			t.Errorf("without %s: %v", command[1], err)
		}
	}
	cfg := limited(t, s, "t:", "-wait")
	cfg.WaitReplicas = 1
	if err := start(cfg); err == nil || !strings.Contains(err.Error(), "lacks +wait ") {
		t.Errorf("without wait, which is needed: %v", err)
	}
	cfg = limited(t, s, "t:")
	cfg.Prefix = "other:"
	if err := start(cfg); err == nil || !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "below other:") {
		t.Errorf("another prefix: %v", err)
	}
	if tried != len(allowed)-5 {
		t.Errorf("%d of %d were tried", tried, len(allowed))
	}
	if err := start(limited(t, s, "t:")); err != nil {
		t.Errorf("with all of them: %v", err)
	}
}

// TestRedisACLIsTakenAway: a user whose rights shrink while the sidecar runs is told too, and goes on when it has them again.
func TestRedisACLIsTakenAway(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, limited(t, s, "t:"))
	s.Do("ACL", "SETUSER", "oo-sidecar", "-hset")
	redistest.Eventually(t, "it is seen", func() error {
		if err := c.err(); err == nil || !strings.Contains(err.Error(), "lacks +hset") {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
	s.Do("ACL", "SETUSER", "oo-sidecar", "+hset")
	redistest.Eventually(t, "it is over", c.err)
}
