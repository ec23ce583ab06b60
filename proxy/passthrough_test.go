package proxy

import (
	"slices"
	"testing"
)

func TestPassthrough(t *testing.T) {
	p, err := NewPassthrough([]string{"model-apis", "llm.internal", "*.models.test", "10.0.0.5"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"api.openai.com": true, "api.anthropic.com": true, "generativelanguage.googleapis.com": true, "mine.openai.azure.com": true,
		"bedrock-runtime.eu-central-1.amazonaws.com": true, "europe-west4-aiplatform.googleapis.com": true, "aiplatform.googleapis.com": true,
		"llm.internal": true, "a.models.test": true, "a.b.models.test": true, "10.0.0.5": true,
		"models.test": false, "evilmodels.test": false, "openai.com": false, "api.openai.com.evil.test": false, "xapi.openai.com": false, ".openai.azure.com": false,
		"bedrock-runtime.a.b.amazonaws.com": false, "bedrock.eu-central-1.amazonaws.com": false, "s3.amazonaws.com": false, "": false,
	} {
		if p.Match(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
	none, err := NewPassthrough(nil)
	if err != nil || none.Match("api.openai.com") {
		t.Error("an empty list lets something through", err)
	}
	for _, bad := range []string{"", ".", "*", "http://a.test", "a.test:443", "a/b", "a b", "[::1]:1", "a..b"} {
		if _, err := NewPassthrough([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestModelHostsStandOnce(t *testing.T) {
	seen := slices.Clone(modelAPIs)
	slices.Sort(seen)
	if len(slices.Compact(seen)) != len(modelAPIs) {
		t.Error("a host stands there twice")
	}
}
