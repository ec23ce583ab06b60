#!/bin/sh
# Installs what the tests need and is not here: tool servers by go install, the rest from Debian's packages.
set -eu
bin=${GOBIN:?run this by make}
mkdir -p "$bin"
install_go() { # command, module@version
	[ -x "$bin/$1" ] || { echo "installing $1"; GOFLAGS= go install "$2"; }
}
install_go stripe-mock github.com/stripe/stripe-mock@v0.203.0
install_go mailpit github.com/axllent/mailpit@v1.27.11

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need curl curl
need python3 python3
need node nodejs
need chromium chromium
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "installing$missing"
	$sudo apt-get update -qq
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
venv=$(dirname "$bin")/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import requests' 2>/dev/null || "$venv/bin/pip" install -q --disable-pip-version-check requests==2.32.5
