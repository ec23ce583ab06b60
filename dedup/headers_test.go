package dedup

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// The list that the README publishes is the one that is used.
func TestPublishedList(t *testing.T) {
	text, err := os.ReadFile("testdata/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "`*` stands for any text:\n\n")
	list, _, ok2 := strings.Cut(after, "\n\n")
	if !ok || !ok2 {
		t.Fatal("the README no longer has the list where this test looks for it")
	}
	if got := strings.Fields(list); !slices.Equal(got, neverCounted) {
		t.Errorf("published %v\nused %v", got, neverCounted)
	}
}

func TestNeverCountedMatching(t *testing.T) {
	for name, want := range map[string]bool{
		"request-id": true, "x-request-id": true, "x-amzn-request-id": true, "request-id-of-mine": false, "xrequest-id": true,
		"correlation-id": true, "x-correlation-id": true, "x-correlation-ids": false,
		"x-cloud-trace-context": true, "x-trace": true, "uber-trace-id": true, "trace": false, "traceparent": true, "traceparents": false,
		"x-b3-traceid": true, "x-b3": false, "b3": false, "x-forwarded-for": true, "x-forwarded": false, "forwarded": true,
		"x-stripe-client-telemetry": true, "x-stripe-account": false, "stripe-account": false, "stripe-version": false,
		"authorization": false, "cookie": false, "accept": false, "x-api-key": false, "host": true, "x-host": false,
		"proxy-authorization": true, "x-onceonly-run-id": true, "amz-sdk-request": true, "x-amz-target": false, "x-amz-date": true, "te": true, "tea": false, "": false,
	} {
		if got := never.matches([]byte(name)); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func TestWeigh(t *testing.T) {
	plain := &tool.Tool{Headers: []tool.Header{{Name: "X-API-Key"}}, UpstreamKey: tool.UpstreamKey{Header: "X-Idem"}}
	ignoring := &tool.Tool{Dedup: tool.Dedup{IgnoreHeaders: []string{"x-session", "x-ab-*"}}}
	naming := &tool.Tool{Dedup: tool.Dedup{Headers: []string{"authorization", "x-request-id", "content-type"}}}
	const aws = "AWS4-HMAC-SHA256 SignedHeaders=host,Credential=AKID/20260101/us-east-1/s3/aws4_request,Signature=a"
	for _, v := range []struct {
		t           *tool.Tool
		name, value string
		want        weight
	}{
		{plain, "x-api-key", "1", replaced}, {plain, "x-idem", "1", replaced}, {plain, "x-api-key-2", "1", asItIs},
		{plain, "authorization", "Bearer x", asDigest}, {plain, "authorization", aws, asScope}, {plain, "cookie", "a=b", asDigest},
		{plain, "content-type", "text/plain", asMediaType}, {plain, "user-agent", "x", listed},
		{ignoring, "x-session", "1", ignored}, {ignoring, "x-ab-test", "1", ignored}, {ignoring, "x-abtest", "1", asItIs}, {ignoring, "date", "1", listed},
		{naming, "authorization", "Bearer x", asDigest}, {naming, "x-request-id", "1", asItIs}, {naming, "stripe-account", "1", unnamed}, {naming, "cookie", "1", unnamed},
		{naming, "content-type", "text/plain", asItIs},
	} {
		if got := weigh(v.t, []byte(v.name), v.value); got != v.want {
			t.Errorf("%s: %s is %q, want %q", v.name, v.value, got, v.want)
		}
	}
}

func TestAWSIdentity(t *testing.T) {
	const want = "AWS4-HMAC-SHA256 AKID/us-east-1/s3/aws4_request"
	for value, want := range map[string]string{
		"AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=a":  want,
		"AWS4-HMAC-SHA256 Credential=AKID/20261231/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=b":  want,
		"AWS4-HMAC-SHA256 SignedHeaders=host, Credential=AKID/20260101/us-east-1/s3/aws4_request , Signature=a": want,
		"AWS4-ECDSA-P256-SHA256 Credential=AKID/20260101/s3/aws4_request, SignedHeaders=host, Signature=a":      "AWS4-ECDSA-P256-SHA256 AKID/s3/aws4_request",
		"AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4":                                           "",
		"AWS4-HMAC-SHA256 Credential=AKID/2026/us/s3/aws4_request":                                              "",
		"AWS4-HMAC-SHA256 Credential=/20260101/us/s3/aws4_request":                                              "",
		"AWS4-HMAC-SHA256 XCredential=A/20260101/us/s3/aws4_request":                                            "",
		"AWS4-HMAC-SHA256 Signature=a":                              "",
		"Bearer Credential=AKID/20260101/us-east-1/s3/aws4_request": "",
		"": "",
	} {
		if got, ok := awsIdentity(value); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", value, got, ok, want)
		}
	}
}
