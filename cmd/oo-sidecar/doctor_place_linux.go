package main

import "golang.org/x/sys/unix"

// volatilePlace says in words why what is in dir does not last; "" when nothing speaks against it.
func volatilePlace(dir string) string {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return ""
	}
	switch int64(fs.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "in memory"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "in a container's own layer, which goes with it"
	}
	return ""
}
