// Package listen serves net/http handlers on the sidecar's own listeners, api and health: with limits, and only to
// requests that mean the listener. A page in the user's browser can reach loopback under a name of its own.
package listen

import (
	"log/slog"
	"net/http"
	"time"
)

// Server is an http.Server with every limit set. Requests must be whole within 15 s; answers within 60 s.
// Serve counts the time of a connection's first request from its first byte.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  15 * time.Second,
		WriteTimeout:                 60 * time.Second,
		IdleTimeout:                  90 * time.Second,
		MaxHeaderBytes:               32 << 10,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
