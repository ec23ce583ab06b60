package govern

import "github.com/oo-sidecar/oo-sidecar/internal/tool"

// Limits is the section `limits` of the configuration file: bounds of one sidecar's memory.
type Limits struct {
	// Largest answer that is kept for replays; larger ones are passed on and duplicates get 410.
	AnswerBytes tool.Size `koanf:"answer_bytes"`
	// Most callers that wait for one running call; past it 409 at once.
	Waiters int `koanf:"waiters"`
	// Largest header of a request; a larger one is 431.
	HeaderBytes tool.Size `koanf:"header_bytes"`
}
