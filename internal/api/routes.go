package api

// callerRoutes are those of both roles: what an agent does for itself.
func (s *Server) callerRoutes() map[string]methods {
	return map[string]methods{
		"/v1/check-lock":  {"POST": s.checkLock},
		"/v1/ai/lease":    {"POST": s.acquireLease},
		"/v1/ai/extend":   {"POST": s.extendLease},
		"/v1/ai/complete": {"POST": s.completeLease},
		"/v1/ai/fail":     {"POST": s.failLease},
		"/v1/ai/cancel":   {"POST": s.cancelLease},
		"/v1/ai/status":   {"GET": s.leaseStatus},
		"/v1/ai/result":   {"GET": s.leaseResult},
		"/v1/ai/run":      {"POST": s.run},
	}
}
