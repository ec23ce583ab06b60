//go:build !race

package dedup

const poolsForget = false
