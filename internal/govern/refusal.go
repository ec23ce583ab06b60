package govern

// Refusal is an answer of the sidecar's own: RFC 9457 problem details with the members that a model can act on.
type Refusal struct {
	Status           int
	Code             string
	Title            string
	Detail           string
	Hint             string // one sentence for a model: what to do instead
	Retryable        bool
	RetryAfter       int // seconds; 0: none
	Tool, Agent, Key string
	Instance         string // the audit record's request id
}
