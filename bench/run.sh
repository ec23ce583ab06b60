#!/usr/bin/env bash
# Measures bin/oo-sidecar (or $OO_BIN) beside a bare proxy and nginx; see main.go. Installs nginx where it is missing.
# Arguments go to the program: ./bench/run.sh -h. Journals are written below $OO_BENCH_DIR, which must be on a disk.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH="$PATH:/usr/sbin"
if ! command -v nginx >/dev/null; then
	./test/install.sh nginx >&2 || echo "nginx could not be installed; the run goes on without it" >&2
fi
(cd bench && CGO_ENABLED=0 go build -o ../bin/oo-bench .)
dir=${OO_BENCH_DIR:-}
if [ -z "$dir" ] && [ "$(stat -f -c %T "${TMPDIR:-/tmp}")" = tmpfs ]; then
	dir=bin
fi
exec ./bin/oo-bench -binary "${OO_BIN:-bin/oo-sidecar}" -dir "$dir" "$@"
