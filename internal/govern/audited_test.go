package govern_test

import (
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// TestReadsNeedARecord: the waiver of reads ends where their records would be lost; that of a tool whose operator wrote
// on_store_error: allow does not.
func TestReadsNeedARecord(t *testing.T) {
	s := fourEffects()
	s.tools = append(s.tools, tool.Config{Name: "waived", OnStoreError: "allow"})
	brokenStore(t, s, func(w *world, d *disk) {
		audited := true
		w.gov.Audited = func() bool { return audited }
		w.ask(named("read", `{"n":1}`)).want(t, "200 executed ok done")
		audited = false
		w.ask(named("read", `{"n":2}`)).want(t, "200 executed ok done") // the store takes its claim, and its record
		w.fail(d)
		sent := w.stage.sends()
		w.ask(named("read", `{"n":3}`)).want(t, "503 blocked store_unavailable not_sent")
		if w.stage.sends() != sent {
			t.Error("a read was sent that leaves no record")
		}
		w.ask(named("waived", `{"n":4}`)).want(t, "200 executed ok done")
		audited = true
		w.ask(named("read", `{"n":5}`)).want(t, "200 executed ok done")
		w.heal(d)
	})
}
