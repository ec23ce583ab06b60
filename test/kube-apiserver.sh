#!/bin/sh
# Builds a real kube-apiserver from the module k8s.io/kubernetes, for `make cluster`: some ten minutes, once. Its staging
# modules are published under versions of their own, which the module's own go.mod does not name.
set -eu
out=${1:?usage: kube-apiserver.sh FILE}
version=1.34.2
[ -x "$out" ] && exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
theirs=$(GOFLAGS= go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
{
	printf 'module apiserver\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$version"
	sed -n "s#^[[:space:]]*\(k8s.io/[a-z0-9.-]*\) => ./staging.*#\t\1 => \1 v0.${version#1.}#p" "$theirs" | sort -u
	printf ')\n'
} >go.mod
printf 'package apiserver\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver/app"\n' >apiserver.go
GOFLAGS= go get "k8s.io/kubernetes@v$version"
CGO_ENABLED=0 GOFLAGS= go build -mod=mod -ldflags "-s -w" -o "$out" k8s.io/kubernetes/cmd/kube-apiserver
