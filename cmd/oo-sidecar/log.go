package main

import (
	"io"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"

	"github.com/oo-sidecar/oo-sidecar/config"
)

// noStacktrace is above every level: an error names what to mend, and where the program noticed it helps nobody at night.
// What panics logs its own stack.
const noStacktrace = slog.Level(100)

// newLogger writes diagnostics as one JSON object a line, never sampled. In text it is for a person's terminal; the
// console encoder lets line breaks through, so it is not for collecting.
func newLogger(c config.LogConfig, w io.Writer) *slog.Logger {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		level = zapcore.InfoLevel
	}
	fields := zap.NewProductionEncoderConfig()
	fields.TimeKey, fields.EncodeTime = "ts", zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(fields)
	if c.Format == "text" {
		encoder = zapcore.NewConsoleEncoder(fields)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)
	return slog.New(zapslog.NewHandler(core, zapslog.AddStacktraceAt(noStacktrace)))
}
