package listen

import (
	"math"
	"syscall"
)

// Share is how many connections a listener may have at once: parts of 32 of the process's limit of open files, but at
// most `most` and at least 4. Go has raised the soft limit to the hard one before main. Where there is no such limit it
// is `most`.
func Share(parts, most int) int { return share(openFiles(), parts, most) }

func share(files uint64, parts, most int) int {
	if files > math.MaxInt32 {
		return most
	}
	return max(4, min(most, int(files)*parts/32))
}

func openFiles() uint64 {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return math.MaxUint64
	}
	return uint64(r.Cur)
}
