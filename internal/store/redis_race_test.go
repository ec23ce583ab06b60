//go:build race

package store

// Under the race detector this process and what it asks of Redis are several times slower.
func init() {
	redisTimeout *= 4
	replicaTimeout *= 4
}
