package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/valyala/fasthttp"
)

// answerBytes is the length of the tool's answer, a JSON object.
const answerBytes = 1 << 10

func answer() []byte {
	const head, tail = `{"status":"succeeded","detail":"`, `"}`
	return []byte(head + strings.Repeat("x", answerBytes-len(head)-len(tail)) + tail)
}

// serveTool is the tool that all contenders call: the cheapest server that gives the answer with its length.
func serveTool(ctx context.Context, out io.Writer) error {
	return serve(ctx, out, givesAnswer())
}

func givesAnswer() fasthttp.RequestHandler {
	body := answer()
	return func(rc *fasthttp.RequestCtx) {
		rc.SetContentType("application/json")
		rc.Response.SetBodyRaw(body)
	}
}

// serveBare is the proxy that the others are measured by: one fasthttp server and one fasthttp client, and nothing
// between them.
func serveBare(ctx context.Context, out io.Writer, upstream string) error {
	return serve(ctx, out, passesOn(bareClient(upstream)))
}

func bareClient(upstream string) *fasthttp.HostClient {
	return &fasthttp.HostClient{
		Addr: upstream, MaxConns: 4096, NoDefaultUserAgentHeader: true,
		DisableHeaderNamesNormalizing: true, DisablePathNormalizing: true,
	}
}

func passesOn(client *fasthttp.HostClient) fasthttp.RequestHandler {
	return func(rc *fasthttp.RequestCtx) {
		rc.Request.Header.Del("Connection")
		if err := client.Do(&rc.Request, &rc.Response); err != nil {
			rc.Error(err.Error(), fasthttp.StatusBadGateway)
			return
		}
		rc.Response.Header.Del("Connection")
	}
}

// serve listens on a free port of loopback, prints the address and serves until ctx ends.
func serve(ctx context.Context, out io.Writer, h fasthttp.RequestHandler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return serveOn(ctx, out, l, l, h)
}

// serveOn prints l's address and serves what over accepts.
func serveOn(ctx context.Context, out io.Writer, l, over net.Listener, h fasthttp.RequestHandler) error {
	fmt.Fprintln(out, l.Addr())
	context.AfterFunc(ctx, func() { l.Close() })
	s := &fasthttp.Server{Handler: h, NoDefaultServerHeader: true, NoDefaultDate: true, Concurrency: 8192}
	return s.Serve(over)
}
