package govern_test

import (
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// TestRefuseEarly: what the head alone decides is refused as Govern would, with one record; all else leaves nothing.
func TestRefuseEarly(t *testing.T) {
	s := oneTool(nil).under(policy.Config{BlockedTools: []string{"off"}})
	s.passthrough = "model.test"
	in(t, s, func(w *world) {
		w.off("gone")
		for i, c := range []struct {
			ask     *asking
			refused bool
		}{
			{named("t", "{}").with(func(r *govern.Request) { r.Agent = "gone" }), true},
			{named("off", "{}"), true}, {named("nosuch", "{}"), true},
			{named("t", "{}").with(func(r *govern.Request) { r.ToolHint = "other" }), true},
			{forwarded(t, "POST", "https://free.test/", "{}"), true},
			{named("t", "{}"), false}, {named("t", "[,]"), false}, {forwarded(t, "POST", "https://model.test/", "{}"), false},
		} {
			head := c.ask.Request
			head.ID, head.Arrived, head.Tenant, head.Body = strings.Repeat("e", 31)+string(rune('a'+i)), time.Now(), "default", nil
			if head.Agent == "" {
				head.Agent = "ag"
			}
			got := w.gov.RefuseEarly(&head)
			if !c.refused {
				if got != nil || len(w.records(head.ID)) != 0 {
					t.Errorf("%s %s is refused early: %+v", head.Name, head.Target.Authority, got)
				}
				continue
			}
			if got == nil {
				t.Fatalf("%s %s is not refused early", head.Name, head.Target.Authority)
			}
			w.mu.Lock()
			w.replies[head.ID] = &reply{Reply: got, id: head.ID}
			w.mu.Unlock()
			later := w.ask(c.ask)
			if f, g := got.Refusal, later.Refusal; f.Code != g.Code || f.Detail != g.Detail || f.Tool != g.Tool || got.Status != later.Status || got.Risk != later.Risk {
				t.Errorf("refused early as %+v, later as %+v", f, g)
			}
		}
		if w.stage.sends() != 0 {
			t.Error("something was sent")
		}
	})
}
