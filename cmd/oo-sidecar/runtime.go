package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// runtimeNames are the programs by which runtimes are started, without a version.
var runtimeNames = map[string]string{
	"curl": "curl", "python": "Python", "pypy": "Python", "node": "Node", "nodejs": "Node", "java": "Java", "mvn": "Java", "gradle": "Java",
}

// runtimeOf says which runtime of clientRuntimes a command is run by, and by which program: itself, or the interpreter
// that its first line names. The program is empty where the command only starts one; the name too where that cannot be
// told.
func runtimeOf(command string) (name, program string) {
	for range 3 { // a script may name a script
		path, err := exec.LookPath(command)
		if err != nil {
			return "", ""
		}
		bare := strings.TrimRight(filepath.Base(path), "0123456789.")
		if name = runtimeNames[bare]; name == "Java" && bare != "java" {
			return name, ""
		} else if name != "" {
			return name, path
		}
		if command = interpreter(path); command == "" {
			return "", ""
		}
	}
	return "", ""
}

// interpreter is the program that a script's first line names; empty when it is no script.
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	line, _ := bufio.NewReader(io.LimitReader(f, 512)).ReadString('\n')
	rest, is := strings.CutPrefix(line, "#!")
	words := strings.Fields(rest)
	if !is || len(words) == 0 {
		return ""
	}
	if filepath.Base(words[0]) != "env" {
		return words[0]
	}
	for _, w := range words[1:] {
		if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
			return w
		}
	}
	return ""
}
