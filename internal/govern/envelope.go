package govern

import (
	"fmt"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// composable makes sure that a body can be made of the arguments.
func (p *passage) composable() error {
	if p.tool.Body == tool.AsIs && p.tool.UpstreamKey.JSON == "" {
		return nil
	}
	_, err := p.compose("", time.Time{})
	return err
}

// compose is the body for the tool: the agent's own, or an envelope around it, with the key where the tool reads it.
func (p *passage) compose(key string, now time.Time) (body []byte, err error) {
	body = p.call.Body
	pointer := p.tool.UpstreamKey.JSON
	if p.tool.Body == tool.AsIs && pointer == "" {
		return body, nil
	}
	switch empty := len(body) == 0; {
	case empty && p.tool.Body == tool.Envelope:
		body = []byte("{}")
	case empty || !dedup.IsJSON(&p.call): // only what the strict scanner has read may be spliced
		return nil, fmt.Errorf("tool %s takes JSON arguments (application/json) only", p.name)
	}
	if p.tool.Body == tool.Envelope {
		body = p.envelope(body, key, now)
	}
	if pointer == "" {
		return body, nil
	}
	if body, err = setMember(body, pointer, key); err != nil {
		return nil, fmt.Errorf("tool %s wants its key at %s, and these arguments have no object there", p.name, pointer)
	}
	return body, nil
}

// envelope is the body of a tool that wants {"tool","args",…}: the agent's arguments stand in it byte for byte.
func (p *passage) envelope(args []byte, key string, now time.Time) []byte {
	b := make([]byte, 0, len(args)+384)
	b = append(b, `{"tool":`...)
	b = appendJSON(b, p.name)
	b = append(b, `,"args":`...)
	b = append(b, args...)
	b = append(b, `,"agent_id":`...)
	b = appendJSON(b, p.r.Agent)
	b = append(b, `,"run_id":`...)
	b = appendJSON(b, p.r.RunID)
	b = append(b, `,"request_id":`...)
	b = appendJSON(b, p.r.ID)
	b = append(b, `,"idempotency_key":`...)
	b = appendJSON(b, key)
	b = append(b, `,"spend_usd":`...)
	b = append(b, p.cost.String()...)
	b = append(b, `,"dry_run":false,"ts":`...)
	b = strconv.AppendInt(b, now.Unix(), 10)
	return append(b, '}')
}
