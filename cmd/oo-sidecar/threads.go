package main

import (
	"os"
	"runtime"
)

// oneMore lets one thread more run Go code than there are processors. A sync of the journal keeps its place among them
// until the runtime's monitor takes it away, and nearly always waits for the disk: of two places calls would have one, and
// at 64 callers a sixth fewer are governed. GOMAXPROCS of the environment stands. A limit of CPU that changes later is not
// followed any more.
func oneMore() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}
