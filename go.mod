module github.com/oo-sidecar/oo-sidecar

go 1.26.0
