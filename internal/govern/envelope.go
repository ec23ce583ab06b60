package govern

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// sendability is why a call cannot be put into the form its tool wants.
type sendability struct{ why string }

func (e *sendability) Error() string { return e.why }

// envelope is the body of a tool that wants {"tool","args",…}: the agent's arguments stand in it byte for byte.
func (p *passage) envelope(upstreamKey string, now time.Time) ([]byte, error) {
	args := p.call.Body
	switch {
	case len(args) == 0:
		args = []byte("{}")
	case !isJSON(p.call.Header):
		return nil, &sendability{"Tool " + p.name + " takes JSON arguments (application/json) only."}
	}
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
	b = appendJSON(b, upstreamKey)
	b = append(b, `,"spend_usd":`...)
	b = append(b, p.cost.String()...)
	b = append(b, `,"dry_run":false,"ts":`...)
	b = strconv.AppendInt(b, now.Unix(), 10)
	return append(b, '}'), nil
}

func isJSON(headers []tool.Header) bool {
	for _, h := range headers {
		if strings.EqualFold(h.Name, "Content-Type") {
			media, _, _ := strings.Cut(h.Value, ";")
			media = strings.ToLower(strings.TrimSpace(media))
			return media == "application/json" || strings.HasSuffix(media, "+json")
		}
	}
	return false
}

// setMember returns the JSON object doc with the member at the pointer set to the string value. The rest of the text
// stays as it is. doc has passed the strict scanner: it is well-formed and has no duplicate members.
func setMember(doc []byte, pointer, value string) ([]byte, error) {
	names := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	at := skipSpace(doc, 0)
	for i, name := range names {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if at >= len(doc) || doc[at] != '{' {
			return nil, &sendability{fmt.Sprintf("The tool's key belongs at %s, and these arguments have no object there.", pointer)}
		}
		from, to, found := member(doc, at, name)
		switch {
		case found && i == len(names)-1:
			return splice(doc, from, to, appendJSON(nil, value)), nil
		case found:
			at = from
		case i == len(names)-1:
			text := append(appendJSON(nil, name), ':')
			text = appendJSON(text, value)
			if doc[skipSpace(doc, at+1)] != '}' {
				text = append(text, ',')
			}
			return splice(doc, at+1, at+1, text), nil
		default:
			return nil, &sendability{fmt.Sprintf("The tool's key belongs at %s, and these arguments have no object there.", pointer)}
		}
	}
	return doc, nil
}

func splice(doc []byte, from, to int, text []byte) []byte {
	out := make([]byte, 0, len(doc)+len(text))
	out = append(out, doc[:from]...)
	out = append(out, text...)
	return append(out, doc[to:]...)
}

// member finds the value of the named member of the object that starts at doc[at].
func member(doc []byte, at int, name string) (from, to int, found bool) {
	i := skipSpace(doc, at+1)
	for i < len(doc) && doc[i] != '}' {
		end := skipValue(doc, i)
		var key string
		err := json.Unmarshal(doc[i:end], &key) // one string that the strict scanner has passed
		colon := skipSpace(doc, end)
		from = skipSpace(doc, colon+1)
		to = skipValue(doc, from)
		if err == nil && key == name {
			return from, to, true
		}
		i = skipSpace(doc, to)
		if i < len(doc) && doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
	}
	return 0, 0, false
}

func skipSpace(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\n' || doc[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index behind the value that starts at doc[i].
func skipValue(doc []byte, i int) int {
	depth := 0
	for ; i < len(doc); i++ {
		switch c := doc[i]; {
		case c == '"':
			for i++; doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case depth == 0 && (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			return i
		}
	}
	return i
}
