package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// tell prints a line for send.
func tell(line told) {
	data, _ := json.Marshal(line)
	fmt.Printf("%s\n", data)
}

// TestMain is also the clients of the matrix that are written in Go or run curl, in processes of their own.
func TestMain(m *testing.M) {
	text, ok := os.LookupEnv("OO_ERRAND")
	if !ok {
		os.Exit(m.Run())
	}
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for route, base := range e.Routes {
		if err := clientsHere[os.Args[1]](route, base, e.body(route)); err != nil {
			tell(told{Route: route, Step: "error", Text: err.Error()})
		}
	}
}

var clientsHere = map[string]func(route, base, body string) error{"go": goClient, "curl": curlClient}

func goClient(route, base, body string) error {
	for _, step := range []string{"call", "call", "refusal"} {
		path := map[string]string{"call": "/charge", "refusal": "/blocked"}[step]
		resp, err := http.Post(base+path, "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		tell(told{route, step, resp.StatusCode, string(text), resp.Header.Get("Idempotent-Replayed") == "true"})
	}
	resp, err := http.Post(base+"/stream", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return tellStream(route, resp.Body)
}

// tellStream tells the first piece when it is there, and the whole at the end.
func tellStream(route string, from io.Reader) error {
	var whole []byte
	piece := make([]byte, 4096)
	for {
		n, err := from.Read(piece)
		if n > 0 && len(whole) == 0 {
			tell(told{Route: route, Step: "piece", Text: string(piece[:n])})
		}
		whole = append(whole, piece[:n]...)
		if err == io.EOF {
			tell(told{Route: route, Step: "streamed", Text: string(whole)})
			return nil
		} else if err != nil {
			return err
		}
	}
}

func curlClient(route, base, body string) error {
	curl := func(path string, more ...string) *exec.Cmd {
		args := append([]string{"-q", "-sS", "-m", "30", "-H", "Content-Type: application/json", "-d", body}, more...)
		return exec.Command("curl", append(args, base+path)...)
	}
	for _, step := range []string{"call", "call", "refusal"} {
		path := map[string]string{"call": "/charge", "refusal": "/blocked"}[step]
		out, err := curl(path, "-w", "\n%{http_code} %header{idempotent-replayed}").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		cut := bytes.LastIndexByte(out, '\n')
		line := told{Route: route, Step: step, Text: string(out[:cut]), Replayed: bytes.HasSuffix(out, []byte(" true"))}
		fmt.Sscan(string(out[cut+1:]), &line.Status)
		tell(line)
	}
	cmd := curl("/stream", "-N")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := tellStream(route, out); err != nil {
		return err
	}
	return cmd.Wait()
}
