//go:build race

package dedup

// The race detector makes pools forget at random.
const poolsForget = true
