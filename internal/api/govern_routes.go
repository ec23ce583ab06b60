package api

// governRoutes are the paths of governance, the account and the timelines. On those that both roles may use, an agent's
// key sees what is its own.
func (s *Server) governRoutes() map[string]methods {
	return map[string]methods{
		"/v1/policies":                    {"GET": s.listAgentPolicies},
		"/v1/policies/{id}":               {"GET": s.getAgentPolicy, "POST": operators(s.upsertPolicy)},
		"/v1/policies/{id}/from-template": {"POST": operators(s.applyTemplate)},
		"/v1/agents/{id}":                 {"GET": s.getAgent},
		"/v1/agents/{id}/logs":            {"GET": featured("agent_logs", s.agentLogs)},
		"/v1/tools":                       {"GET": operators(s.listRegistered), "POST": operators(s.upsertTool)},
		"/v1/tools/{name}":                {"GET": operators(s.getRegistered), "DELETE": operators(s.deleteRegistered)},
		"/v1/tools/{name}/toggle":         {"POST": operators(s.toggleTool)},
		"/v1/snapshot":                    {"GET": s.getSnapshot},
		"/v1/openapi.json":                {"GET": s.describe},
		"/v1/me":                          {"GET": s.me},
		"/v1/me/notifications":            {"POST": operators(s.notifications)},
		"/v1/usage":                       {"GET": s.usage},
		"/v1/usage/all":                   {"GET": s.usageAll},
		"/v1/metrics":                     {"GET": s.dayMetrics},
		"/v1/events":                      {"GET": s.listEvents, "POST": s.postEvent},
		"/v1/runs":                        {"GET": s.listTimelines},
		"/v1/runs/{id}":                   {"GET": s.getTimeline},
		"/v1/agents/{id}/metrics":         {"GET": featured("agent_metrics", s.agentMetrics)},
	}
}
