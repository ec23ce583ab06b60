module github.com/oo-sidecar/oo-sidecar/test

go 1.26.0
