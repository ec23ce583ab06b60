package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
)

// TestBodiesThatStall: they fill the room of large bodies only. One more large body is told to come again, small ones
// go on as ever, and when the stalled ones have gone there is room again.
func TestBodiesThatStall(t *testing.T) {
	h := newHouse(t, setup{})
	const large = 8<<20 - 1024
	head := fmt.Sprintf("POST /v1/ai/run HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", botKey, large)
	var stalled []net.Conn
	for range 4 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.http.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, head+strings.Repeat("x", large-1)); err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, conn)
	}
	for until := time.Now().Add(30 * time.Second); h.api.LentToBodies() < 4*(large-1-api.SmallBody); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the bodies were not read:", h.api.LentToBodies())
		}
	}
	body := `{"key":"k","result":{"x":"` + strings.Repeat("x", 4<<20) + `"},"lease_id":"l"}`
	if g := h.ask(botKey, "POST", "/v1/ai/complete", body); g.status != 429 || g.header.Get("Retry-After") != "1" {
		t.Errorf("one more: %d %s", g.status, g.text)
	}
	if g := h.ask(botKey, "POST", "/v1/check-lock", `{"key":"small"}`); g.status != 200 {
		t.Errorf("a lock: %d %s", g.status, g.text)
	}
	for _, conn := range stalled {
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 422 {
			t.Errorf("a body that went on: %v %v", resp, err)
		}
	}
	if g := h.ask(botKey, "POST", "/v1/ai/complete", body); g.status != 404 {
		t.Errorf("afterwards: %d %s", g.status, g.text)
	}
}

// TestAgentsLeaveRoomForOperators: however many requests an agent has open, its switch can be turned.
func TestAgentsLeaveRoomForOperators(t *testing.T) {
	h := newHouse(t, setup{})
	h.api.Crowd = 1
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	// the server asks for the body once the key has been found good and somebody reads
	if _, err := fmt.Fprintf(conn, "POST /v1/ai/run HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", botKey); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
		t.Fatal(line, err)
	}
	if g := h.ask(botKey, "POST", "/v1/check-lock", `{"key":"k"}`); g.status != 429 || g.header.Get("Retry-After") == "" {
		t.Errorf("one more: %d %s", g.status, g.text)
	}
	if g := h.ask(opsKey, "POST", "/v1/check-lock", `{"key":"ops"}`); g.status != 200 {
		t.Errorf("an operator: %d %s", g.status, g.text)
	}
	if _, err := io.WriteString(conn, "{}"); err != nil {
		t.Fatal(err)
	}
	_, _ = in.ReadString('\n')
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 422 {
		t.Fatal(resp, err)
	}
}
