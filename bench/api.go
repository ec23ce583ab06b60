package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// What clients of /v1 do, by the names of their rows.
const (
	checkLock     = "check-lock"
	leaseComplete = "lease, complete"
)

const (
	nameBareAPI = "bare net/http"
	apiKey      = "a_key_of_the_benchmark"
)

// apiLevels are the numbers of callers at the same time.
var apiLevels = []int{1, 16, 64}

// dialogs are the requests of one round of each.
var dialogs = map[string]func(*caller, uint64) error{checkLock: (*caller).lock, leaseComplete: (*caller).lease}

// lock takes a lock that nobody has.
func (c *caller) lock(number uint64) error {
	return patiently(number, func(key string) error {
		_, err := c.post("/v1/check-lock", fmt.Sprintf(`{"key":"%s","ttl":3600}`, key), `"status":"locked"`)
		return err
	})
}

// lease acquires a lease that nobody has, and completes it.
func (c *caller) lease(number uint64) error { return patiently(number, c.leaseOf) }

// errRefused is a store that did not answer in time: a busy machine's Redis may take longer than the 250 ms it is given.
var errRefused = errors.New("the store did not answer in time")

// refused counts what was asked again.
var refused atomic.Int64

// patiently asks as a client would that is told 429 or 503: after a pause, and here with a new key, because it is not
// known how far the step came. The pause counts as time of the dialog.
func patiently(number uint64, ask func(key string) error) error {
	key := fmt.Sprintf("bench-%016x", number)
	for attempt := 1; ; attempt++ {
		err := ask(key)
		if !errors.Is(err, errRefused) || attempt == 50 {
			return err
		}
		refused.Add(1)
		time.Sleep(100 * time.Millisecond)
		key = fmt.Sprintf("bench-%016x-%d", number, attempt)
	}
}

func (c *caller) leaseOf(key string) error {
	body, err := c.post("/v1/ai/lease", fmt.Sprintf(`{"key":"%s","ttl":3600}`, key), `"status":"acquired"`)
	if err != nil {
		return err
	}
	_, after, _ := bytes.Cut(body, []byte(`"lease_id":"`))
	id, _, _ := bytes.Cut(after, []byte(`"`))
	_, err = c.post("/v1/ai/complete", fmt.Sprintf(`{"key":"%s","lease_id":"%s","result":{"ok":true}}`, key, id), `"status":"completed"`)
	return err
}

// post sends a request and reads its answer, which must be 200 and hold a text.
func (c *caller) post(path, body, must string) ([]byte, error) {
	_, err := fmt.Fprintf(c.conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, c.conn.RemoteAddr(), apiKey, len(body), body)
	if err != nil {
		return nil, err
	}
	status, err := c.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	length := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return nil, err
			}
		}
	}
	answer := make([]byte, max(length, 0))
	if _, err := io.ReadFull(c.in, answer); err != nil {
		return nil, err
	}
	if strings.HasPrefix(status, "HTTP/1.1 429 ") || strings.HasPrefix(status, "HTTP/1.1 503 ") {
		return nil, fmt.Errorf("%s: %w: %s", path, errRefused, answer)
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") || !bytes.Contains(answer, []byte(must)) {
		return nil, fmt.Errorf("not the answer that is measured (200 with %s): %s%s", must, status, answer)
	}
	return answer, nil
}

// serveBareAPI is what the API is measured by: net/http, a body that is read, and an answer of the same form.
func serveBareAPI(ctx context.Context, out io.Writer) error {
	mux := http.NewServeMux()
	for path, text := range map[string]string{
		"POST /v1/check-lock":  `{"success":true,"status":"locked","key":"bench-0000000000000000","ttl":3600,"first_seen_at":null}`,
		"POST /v1/ai/lease":    `{"ok":true,"status":"acquired","key":"bench-0000000000000000","ttl":3600,"ttl_left":null,"lease_id":"lease_00000000000000000000000000000000","version":1,"first_seen_at":"2026-01-01T00:00:00Z","done_at":null,"result_hash":null,"error_code":null,"retry_after_sec":null,"usage":1,"limit":10000000,"charged":1}`,
		"POST /v1/ai/complete": `{"ok":true,"status":"completed","key":"bench-0000000000000000","version":1,"done_at":"2026-01-01T00:00:00Z","result_hash":"0000000000000000000000000000000000000000000000000000000000000000"}`,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, text)
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	context.AfterFunc(ctx, func() { l.Close() })
	return (&http.Server{Handler: mux}).Serve(l)
}

// apiField is everyone whose /v1 is measured, in one order for each dialog.
type apiField struct {
	contenders []contender
	names      []string // of the servers
	processes  []*process
}

func (f *apiField) add(name string, p *process, address string) {
	f.names = append(f.names, name)
	for _, what := range []string{checkLock, leaseComplete} {
		f.contenders = append(f.contenders, contender{name: name + ": " + what, proc: p, address: address, differ: true, dialog: dialogs[what]})
	}
}

func (f *apiField) stop() {
	for i := len(f.processes) - 1; i >= 0; i-- {
		f.processes[i].stop()
	}
}

// startAPI starts the bare handler, and a sidecar on each kind of store that is here. Stop the field also when this fails.
func startAPI(ctx context.Context, s settings, dir, toolAddress string) (*apiField, error) {
	f := &apiField{}
	bare, address, err := startRole(ctx, dir, "bare-api")
	if err != nil {
		return f, err
	}
	f.processes = append(f.processes, bare)
	f.add(nameBareAPI, bare, address)
	if err := f.sidecar(ctx, s, filepath.Join(dir, "api-embedded"), toolAddress, "embedded", nil); err != nil {
		return f, err
	}
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return f, nil
	}
	address, err = freeAddress()
	if err != nil {
		return f, err
	}
	_, port, _ := net.SplitHostPort(address)
	data := filepath.Join(dir, "redis")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return f, err
	}
	redis, err := start(dir, "redis-server", server, "--bind", "127.0.0.1", "--port", port, "--dir", data, "--save", "", "--appendonly", "yes")
	if err != nil {
		return f, err
	}
	f.processes = append(f.processes, redis)
	if err := redis.awaitListener(ctx, address); err != nil {
		return f, err
	}
	return f, f.sidecar(ctx, s, filepath.Join(dir, "api-redis"), toolAddress, "redis", map[string]any{"addrs": []string{address}})
}

// sidecar adds one on a kind of store.
func (f *apiField) sidecar(ctx context.Context, s settings, dir, toolAddress, kind string, redis map[string]any) error {
	var address string
	sc, err := newSidecar(s.binary, dir, toolAddress, func(conf map[string]any) {
		api := conf["api"].(map[string]any)
		address = api["listen"].(string)
		api["keys"] = []map[string]any{{"name": "bench", "role": "operator", "key": apiKey}}
		if store := conf["store"].(map[string]any); redis != nil {
			store["kind"], store["redis"], store["seal_key"] = kind, redis, "a_seal_of_the_benchmark"
		}
	})
	if err != nil {
		return err
	}
	if _, err := sc.start(ctx, 0); err != nil {
		return err
	}
	f.processes = append(f.processes, sc.process)
	f.add(kind, sc.process, address)
	return nil
}

// measureAPI runs and prints the part of /v1.
func measureAPI(ctx context.Context, s settings, dir, toolAddress string, out io.Writer) error {
	f, err := startAPI(ctx, s, dir, toolAddress)
	defer f.stop()
	if err != nil {
		return err
	}
	r, err := interleave(ctx, s, f.contenders, apiLevels, progressTo(os.Stderr))
	if err != nil {
		return err
	}
	if len(f.names) == 0 {
		return errors.New("nobody's /v1 was measured")
	}
	t := newTable(out, fmt.Sprintf("/v1, medians of %d interleaved rounds; every lock and lease is durable when it is answered", s.rounds),
		"callers", "", "store", "a second", "of a bare net/http handler", "CPU s per 100,000")
	for _, callers := range apiLevels {
		for _, what := range []string{checkLock, leaseComplete} {
			for _, name := range f.names {
				row := name + ": " + what
				t.row(fmt.Sprint(callers), what, name, figure(r.median(row, callers, throughput), 0),
					figure(median(r.ratios(row, nameBareAPI+": "+what, callers, throughput)), 2), figure(r.median(row, callers, cpuTime), 2))
			}
		}
	}
	t.flush()
	if n := refused.Load(); n > 0 {
		fmt.Fprintf(out, "%d requests of /v1 were told 429 or 503 and asked again\n", n)
	}
	return nil
}
