package main

import (
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// firstRun is how long a sidecar that `run` started waits for the run that started it.
const firstRun = 20 * time.Second

// members are the children of `run` that use the sidecar which one of them started. It is the api.Runs.
type members struct {
	agent   string // of who names none
	changed func() // called after each change, without mu

	mu     sync.Mutex
	guests map[string]proxy.Guest // guarded by mu; by proxy user
	over   chan struct{}          // closed once the last has left
	ended  bool                   // over is closed; guarded by mu
}

func newMembers(agent string) *members {
	return &members{agent: agent, changed: func() {}, guests: map[string]proxy.Guest{}, over: make(chan struct{})}
}

// await ends everything when nobody has joined by then.
func (m *members) await(first time.Duration) *time.Timer {
	return time.AfterFunc(first, func() {
		if m.Len() == 0 {
			m.Leave("")
		}
	})
}

// Join makes a proxy user that only this child knows.
func (m *members) Join(agent string) (api.Run, error) {
	if agent == "" {
		agent = m.agent
	}
	if err := checkAgent(agent); err != nil {
		return api.Run{}, err
	}
	text := strings.ToLower(rand.Text())
	run := api.Run{User: "run-" + text[:8], Token: rand.Text(), Agent: agent}
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return api.Run{}, api.ErrEnding
	}
	m.guests[run.User] = proxy.Guest{Agent: run.Agent, Token: run.Token}
	m.mu.Unlock()
	m.changed()
	return run, nil
}

// Leave takes the user away; with the last one everything ends.
func (m *members) Leave(user string) (left int) {
	m.mu.Lock()
	delete(m.guests, user)
	left = len(m.guests)
	if left == 0 && !m.ended {
		m.ended = true
		close(m.over)
	}
	m.mu.Unlock()
	m.changed()
	return left
}

// Done is closed when the last one has left.
func (m *members) Done() <-chan struct{} { return m.over }

// Len is how many there are.
func (m *members) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.guests)
}

// all are the proxy users of now.
func (m *members) all() map[string]proxy.Guest {
	m.mu.Lock()
	defer m.mu.Unlock()
	guests := make(map[string]proxy.Guest, len(m.guests))
	for user, guest := range m.guests {
		guests[user] = guest
	}
	return guests
}

// checkAgent says whether id can name an agent, as agent.id of the configuration must.
func checkAgent(id string) error {
	switch {
	case id == "" || id == "*" || len(id) > 128:
		return fmt.Errorf("%q names no agent: write 1 to 128 letters, digits, _ . : @ and -", id)
	case strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("agent %q holds a space or a character outside ASCII: use letters, digits, _ . : @ and -", id)
	}
	return nil
}
