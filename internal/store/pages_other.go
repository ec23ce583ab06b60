//go:build !unix

package store

func allocPages(n int) []byte { return make([]byte, n) }
func freePages([]byte)        {}
