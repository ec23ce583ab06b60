package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// openapiDocument is the API's OpenAPI 3.1 document, as another implementation than ours reads it.
var openapiDocument = sync.OnceValues(func() (*openapi3.T, error) {
	l := openapi3.NewLoader()
	doc, err := l.LoadFromFile(filepath.Join("..", "..", "internal", "api", "openapi.json"))
	if err == nil {
		err = doc.Validate(l.Context)
	}
	return doc, err
})

// witness is a way to the sidecar's API that holds every answer against the description.
type witness struct {
	*httptest.Server
	mu    sync.Mutex
	seen  int      // answers; guarded by mu
	wrong []string // guarded by mu
}

// witnessed puts a witness between the API's clients and the sidecar. What it saw wrong fails the test at its end.
func (s *sidecar) witnessed(t *testing.T) *witness {
	t.Helper()
	if _, err := openapiDocument(); err != nil {
		t.Fatal(err)
	}
	w := &witness{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.api})
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 1200}
	proxy.ModifyResponse = w.look
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Host = s.api
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() {
		w.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, wrong := range w.wrong {
			t.Error(wrong)
		}
		if t.Logf("%d answers were held against the description", w.seen); w.seen == 0 {
			t.Error("no answer came by the witness")
		}
	})
	return w
}

func (w *witness) look(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	err = asDescribed(resp, body)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen++; err != nil && len(w.wrong) < 10 {
		w.wrong = append(w.wrong, resp.Request.Method+" "+resp.Request.URL.Path+": "+err.Error())
	}
	return nil
}

// asDescribed says what of an answer the description does not have.
func asDescribed(resp *http.Response, body []byte) error {
	doc, err := openapiDocument()
	if err != nil {
		return err
	}
	route := routeOf(doc, resp.Request)
	if route == nil && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed) {
		return nil
	}
	if route == nil {
		return &routers.RouteError{Reason: "not described"}
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: resp.Request, Route: route, Options: options},
		Status:                 resp.StatusCode, Header: resp.Header, Options: options,
	}
	return openapi3filter.ValidateResponse(context.Background(), input.SetBodyBytes(body))
}

// routeOf finds the operation by the path as it was sent: an id may hold an encoded slash.
func routeOf(doc *openapi3.T, r *http.Request) *routers.Route {
	asked := strings.Split(r.URL.EscapedPath(), "/")
	var best string
	for path := range doc.Paths.Map() {
		parts := strings.Split(path, "/")
		fits := len(parts) == len(asked)
		for i := 0; fits && i < len(parts); i++ {
			fits = parts[i] == asked[i] || strings.HasPrefix(parts[i], "{")
		}
		if fits && (best == "" || strings.Count(path, "{") < strings.Count(best, "{")) {
			best = path
		}
	}
	item := doc.Paths.Value(best)
	if item == nil || item.GetOperation(r.Method) == nil {
		return nil
	}
	return &routers.Route{Spec: doc, Path: best, PathItem: item, Method: r.Method, Operation: item.GetOperation(r.Method)}
}

// TestTheWitnessSeesWhatIsWrong: a judge that finds everything in order is no judge.
func TestTheWitnessSeesWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		status int
		body   string
		good   bool
	}{
		"right":            {"/v1/check-lock", 200, `{"success":true,"status":"locked","key":"k","ttl":60,"first_seen_at":null}`, true},
		"a member short":   {"/v1/check-lock", 200, `{"success":true,"status":"locked","key":"k","ttl":60}`, false},
		"another type":     {"/v1/check-lock", 200, `{"success":true,"status":"locked","key":"k","ttl":"60","first_seen_at":null}`, false},
		"another word":     {"/v1/check-lock", 200, `{"success":true,"status":"free","key":"k","ttl":60,"first_seen_at":null}`, false},
		"another status":   {"/v1/check-lock", 418, `{"detail":"x"}`, false},
		"no detail":        {"/v1/check-lock", 422, `{}`, false},
		"nowhere":          {"/v1/nowhere", 200, `{}`, false},
		"nowhere, refused": {"/v1/nowhere", 404, `{"detail":"Not Found"}`, true},
	} {
		r := httptest.NewRequest("POST", c.path, nil)
		resp := &http.Response{StatusCode: c.status, Header: http.Header{"Content-Type": {"application/json"}}, Request: r}
		if err := asDescribed(resp, []byte(c.body)); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
