package tool

// String is the configuration's word.
func (e Effect) String() string {
	switch e {
	case Read:
		return "read"
	case Idempotent:
		return "idempotent"
	}
	return "mutating"
}

// String is the configuration's word.
func (b Body) String() string {
	if b == Envelope {
		return "envelope"
	}
	return "as_is"
}

// String is the configuration's word.
func (m Mode) String() string {
	switch m {
	case Explicit:
		return "explicit"
	case Required:
		return "required"
	case Off:
		return "off"
	}
	return "window"
}

var (
	effects = map[string]Effect{"": Mutating, "mutating": Mutating, "idempotent": Idempotent, "read": Read}
	bodies  = map[string]Body{"": AsIs, "as_is": AsIs, "envelope": Envelope}
	modes   = map[string]Mode{"": Window, "window": Window, "explicit": Explicit, "required": Required, "off": Off}
)
