package config

import (
	"slices"
	"strings"
)

// origin remembers where each value came from, and which values must not be shown.
type origin struct {
	file   string
	at     map[string]place // by key, as in tools[3].dedup.ttl
	hidden []hidden         // longest first
	inline []string         // keys of secrets that stand in the file as they are
}

// place is where a value stands.
type place struct {
	file      string
	line, col int
}

// hidden is a value that no message may contain, and what is shown for it.
type hidden struct{ value, shown string }

func newOrigin(file string) *origin {
	return &origin{file: file, at: map[string]place{}}
}

// set remembers the place of a key; what was known of anything below it is forgotten.
func (o *origin) set(key string, p place) {
	if _, again := o.at[key]; again {
		for k := range o.at {
			if strings.HasPrefix(k, key+".") || strings.HasPrefix(k, key+"[") {
				delete(o.at, k)
			}
		}
	}
	o.at[key] = p
}

// find is the place of a key, else of the nearest one around it.
func (o *origin) find(key string) place {
	for k := key; k != ""; k = parent(k) {
		if p, ok := o.at[k]; ok {
			return p
		}
	}
	return place{file: o.file}
}

// parent is the key around a key: of a.b[2] it is a.b, of a.b it is a.
func parent(key string) string {
	return key[:max(strings.LastIndexAny(key, ".["), 0)]
}

// hide keeps a value out of every message from now on.
func (o *origin) hide(value, shown string) {
	if value == "" {
		return
	}
	o.hidden = append(o.hidden, hidden{value, shown})
	slices.SortStableFunc(o.hidden, func(a, b hidden) int { return len(b.value) - len(a.value) })
}

// shortest is the length from which a hidden value is looked for anywhere in a message. Shorter ones would tear words
// apart and tell nothing; they are only hidden where they stand alone in quotes.
const shortest = 3

// redact puts what may be shown in the place of every hidden value.
func (o *origin) redact(text string) string {
	for _, h := range o.hidden {
		if len(h.value) < shortest {
			text = strings.ReplaceAll(text, `"`+h.value+`"`, `"`+h.shown+`"`)
			continue
		}
		text = strings.ReplaceAll(text, h.value, h.shown)
	}
	return text
}

// problem is a Problem at the place of key.
func (o *origin) problem(key, message, mend string) Problem {
	p := o.find(key)
	return Problem{File: p.file, Line: p.line, Column: p.col, Key: key, Message: o.redact(message), Mend: o.redact(mend)}
}
