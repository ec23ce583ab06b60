package main

import (
	"runtime"
	"testing"
)

func TestOneMore(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	t.Setenv("GOMAXPROCS", "7")
	if oneMore(); runtime.GOMAXPROCS(0) != before {
		t.Error("the environment does not stand")
	}
	t.Setenv("GOMAXPROCS", "")
	if oneMore(); runtime.GOMAXPROCS(0) != before+1 {
		t.Errorf("%d places on %d processors", runtime.GOMAXPROCS(0), before)
	}
}
