package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// requestBytes is the length of a call's arguments.
const requestBytes = 512

// Lines that the answer must have, so that what is measured is what is said.
const (
	executed = "X-OnceOnly-Decision: executed"
	replayed = "Idempotent-Replayed: true"
)

// errShed is a refusal with 503: the store behind could not keep up. The connection goes on.
var errShed = errors.New("503")

// caller makes calls over one connection, one after the other. It writes prepared bytes and reads only what tells
// that the answer is right, so that the load costs little beside what it measures.
type caller struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	number  []byte // 16 digits within request: what makes the arguments different
	must    []byte // a line that the answer's head must have; nil: none

	dialog func(*caller, uint64) error // instead of request; nil: none

	done   atomic.Int64 // calls answered; read by the one that measures
	shed   atomic.Int64 // calls refused with 503
	_      [64]byte     // keeps the next caller's counter off this cache line
	failed error        // owned by the calling goroutine until it returned
}

// dial opens one caller's connection. The arguments are a JSON object of requestBytes.
func dial(to contender) (*caller, error) {
	conn, err := to.connect()
	if err != nil {
		return nil, err
	}
	const head = `{"call":"`
	const tail = `0000000000000000","amount":1999,"currency":"usd","customer":"cus_4QWKsZuuTHcs7X","metadata":{"order":6735,"rate":0.0825},"description":"`
	pad := strings.Repeat("y", requestBytes-len(head)-len(tail)-len(`"}`))
	host := to.host
	if host == "" {
		host = to.address
	}
	before := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", to.path, host, requestBytes, head)
	c := &caller{conn: conn, dialog: to.dialog, in: bufio.NewReaderSize(conn, 8<<10), request: []byte(before + tail + pad + `"}`)}
	c.number = c.request[len(before) : len(before)+16]
	if to.must != "" {
		c.must = []byte(to.must)
	}
	return c, nil
}

// call makes one call with arguments that are the number's.
func (c *caller) call(number uint64) error {
	if c.dialog != nil {
		return c.dialog(c, number)
	}
	const hex = "0123456789abcdef"
	for i := range c.number {
		c.number[i] = hex[number>>(60-4*i)&15]
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	return c.read()
}

var contentLength = []byte("content-length:")

// read takes one whole answer off the connection; any but the expected is an error that shows it.
func (c *caller) read() error {
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	right, away := bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")), bytes.HasPrefix(status, []byte("HTTP/1.1 503 "))
	length, marked := -1, c.must == nil
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return err
			}
		}
		marked = marked || bytes.Equal(line, c.must)
	}
	if right && marked && length == answerBytes {
		_, err = c.in.Discard(length)
		return err
	}
	body, _ := io.ReadAll(io.LimitReader(c.in, int64(min(max(length, 0), 1000))))
	if away && len(body) == length {
		return errShed
	}
	return fmt.Errorf("not the answer that is measured (status 200, %d bytes, %q): status 200 %t, %d bytes, marked %t: %s", answerBytes, c.must, right, length, marked, body)
}

// callOnce makes one call on a connection of its own.
func callOnce(address, path, must string, number uint64) error {
	c, err := dial(contender{address: address, path: path, must: must})
	if err != nil {
		return err
	}
	defer c.conn.Close()
	_ = c.conn.SetDeadline(time.Now().Add(5 * time.Second))
	return c.call(number)
}

// load is many callers that call at the same time.
type load struct {
	callers []*caller
	quit    atomic.Bool
	running sync.WaitGroup
}

// startLoad connects the callers, then lets all call until stop. With differ every call has arguments of its own,
// beginning at first; without, all have first's.
func startLoad(to contender, callers int, first uint64) (*load, error) {
	l := &load{}
	for range callers {
		c, err := dial(to)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("%s: %w", to.name, err)
		}
		l.callers = append(l.callers, c)
	}
	for i, c := range l.callers {
		number, step := uint64(0), uint64(0)
		if to.differ {
			number, step = first+uint64(i), uint64(callers)
		}
		l.running.Go(func() {
			for !l.quit.Load() {
				c.failed = c.call(number)
				if to.sheds && errors.Is(c.failed, errShed) {
					c.failed = nil
					c.shed.Add(1)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				if c.failed != nil {
					return
				}
				c.done.Add(1)
				number += step
			}
		})
	}
	return l, nil
}

// calls is how many calls were answered so far.
func (l *load) calls() int64 {
	var n int64
	for _, c := range l.callers {
		n += c.done.Load()
	}
	return n
}

// refused is how many calls were refused with 503.
func (l *load) refused() int64 {
	var n int64
	for _, c := range l.callers {
		n += c.shed.Load()
	}
	return n
}

// stop lets every caller finish its call, and tells what went wrong in any.
func (l *load) stop() error {
	l.quit.Store(true)
	end := time.Now().Add(10 * time.Second)
	for _, c := range l.callers {
		_ = c.conn.SetReadDeadline(end)
	}
	l.running.Wait()
	l.close()
	var all error
	for _, c := range l.callers {
		all = errors.Join(all, c.failed)
		if all != nil {
			break // one shows it
		}
	}
	return all
}

func (l *load) close() {
	for _, c := range l.callers {
		_ = c.conn.Close()
	}
}

// wait sleeps, or tells that ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
