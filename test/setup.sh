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
install_go kustomize sigs.k8s.io/kustomize/kustomize/v5@v5.8.2

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need bash bash
need curl curl
[ -s /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
need openssl openssl
need keytool default-jre-headless
need python3 python3
need node nodejs
need npm npm
need chromium chromium
if [ "$(uname)" = Linux ]; then # the image and the egress lock
	need buildah buildah
	need nft nftables
	need ip iproute2
	need setpriv util-linux
fi
need redis-server redis-server
need redis-sentinel redis-sentinel
need redis-benchmark redis-tools
need cc gcc
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ -z "$missing" ] || "$(dirname "$0")/install.sh" $missing
venv=$(dirname "$bin")/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import requests' 2>/dev/null || "$venv/bin/python" -m pip install -q --disable-pip-version-check requests==2.32.5

# The clients of the matrix and the agents' frameworks. A stamp says which versions are there.
install_clients() { # stamp, versions, command...
	stamp=$1 versions=$2
	shift 2
	[ "$(cat "$stamp" 2>/dev/null)" = "$versions" ] || { echo "installing $versions" && "$@" $versions >/dev/null && echo "$versions" >"$stamp"; }
}
install_clients "$venv/.clients" "httpx==0.28.1 aiohttp==3.14.5 openai-agents==0.24.0 langchain==1.4.7 langchain-core==1.7.2" \
	"$venv/bin/python" -m pip install -q --disable-pip-version-check
node=$(dirname "$bin")/node
mkdir -p "$node"
[ -f "$node/package.json" ] || echo '{"private":true}' >"$node/package.json"
case $(uname -m) in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
install_clients "$node/.clients" "undici@7.30.2 axios@1.21.1 node-linux-$arch@26.10.0 @langchain/core@1.4.0 ai@7.0.173 zod@4.6.7" \
	npm install --silent --no-audit --no-fund --no-update-notifier --prefix "$node"
install_clients "$venv/.onceonly" "onceonly-sdk[langchain]==3.0.5" "$venv/bin/python" -m pip install -q --disable-pip-version-check
install_clients "$venv/.sdk" "schemathesis==4.32.5 fastapi==0.165.0 uvicorn==0.54.0" "$venv/bin/python" -m pip install -q --disable-pip-version-check
