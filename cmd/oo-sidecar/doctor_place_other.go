//go:build !linux

package main

// volatilePlace says in words why what is in dir does not last; it is known on Linux only.
func volatilePlace(string) string { return "" }
