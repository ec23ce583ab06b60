package audit

import "github.com/oo-sidecar/oo-sidecar/internal/journal"

// The journal's kinds that belong to the audit. Their facts are what Record.Append and Change.Append write.
const (
	KindRecord journal.Kind = 16 // one request
	KindChange journal.Kind = 17 // one act of an operator, of a reload or of the sidecar itself
)
