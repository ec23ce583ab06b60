#!/usr/bin/env bash
# Measures bin/oo-sidecar (or $OO_BIN) beside a bare proxy and nginx; see main.go. Installs nginx where it is missing.
# Arguments go to the program: ./bench/run.sh -h. Journals are written below $OO_BENCH_DIR, which must be on a disk.
set -euo pipefail
cd "$(dirname "$0")/.."

install_nginx() {
	command -v apt-get >/dev/null || return 1
	local sudo="" policy=/usr/sbin/policy-rc.d
	[ "$(id -u)" = 0 ] || sudo=sudo
	# Only the program is wanted: the package must not start a server on port 80.
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
		$sudo chmod +x "$policy"
		trap "$sudo rm -f $policy" EXIT
	fi
	$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends nginx >/dev/null
}

PATH="$PATH:/usr/sbin"
if ! command -v nginx >/dev/null; then
	echo "installing nginx" >&2
	(install_nginx) || echo "nginx could not be installed; the run goes on without it" >&2
fi
(cd bench && CGO_ENABLED=0 go build -o ../bin/oo-bench .)
dir=${OO_BENCH_DIR:-}
if [ -z "$dir" ] && [ "$(stat -f -c %T "${TMPDIR:-/tmp}")" = tmpfs ]; then
	dir=bin
fi
exec ./bin/oo-bench -binary "${OO_BIN:-bin/oo-sidecar}" -dir "$dir" "$@"
