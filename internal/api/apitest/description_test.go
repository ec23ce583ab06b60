package apitest

import (
	"net/http"
	"net/url"
	"os"
	"testing"
)

func TestWhatIsNotAsDescribedIsFound(t *testing.T) {
	text, err := os.ReadFile("../openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	lock := &http.Request{Method: "POST", URL: &url.URL{Path: "/v1/check-lock"}}
	for body, good := range map[string]bool{
		`{"success":true,"status":"locked","key":"k","ttl":60,"first_seen_at":null}`:   true,
		`{"success":true,"status":"locked","key":"k","ttl":60}`:                        false,
		`{"success":true,"status":"locked","key":"k","ttl":60.5,"first_seen_at":null}`: false,
		`{"success":true,"status":"polling","key":"k","ttl":60,"first_seen_at":null}`:  false,
		`{"success":"true","status":"locked","key":"k","ttl":60,"first_seen_at":null}`: false,
		`[]`: false,
		``:   false,
	} {
		if err := d.Judge(lock, 200, []byte(body)); (err == nil) != good {
			t.Errorf("%s: %v", body, err)
		}
	}
	for name, c := range map[string]struct {
		path   string
		status int
		good   bool
	}{
		"a status that is not described": {"/v1/check-lock", 418, false},
		"a path that is not":             {"/v1/nowhere", 200, false},
		"and nobody serves":              {"/v1/nowhere", 404, true},
	} {
		r := &http.Request{Method: "POST", URL: &url.URL{Path: c.path}}
		if err := d.Judge(r, c.status, []byte(`{"detail":"x"}`)); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
