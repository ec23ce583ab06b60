package main

import (
	"strings"
	"testing"
)

func TestDemo(t *testing.T) {
	alone(t)
	code, out, errs := line(t, "demo")
	if code != 0 || errs != "" || strings.Count(out, "\n") != 6 {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

// TestDemoChecksItself: a step that does not come to what the story says ends it with a bad exit.
func TestDemoChecksItself(t *testing.T) {
	alone(t)
	spoilt := strings.Replace(demoConfig, "price_usd: \"0.50\"", "price_usd: \"0.60\"", 1)
	var out strings.Builder
	err := (&app{stdout: &out, stderr: &out}).demo(t.Context(), spoilt)
	if e, ok := err.(exit); !ok || e.code != 1 || !strings.Contains(err.Error(), "should have come to: 200 executed") {
		t.Errorf("%v after\n%s", err, &out)
	}
}
