package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nginxConfig is a reverse proxy with kept-alive connections on both sides, as the other contenders have, one worker
// a core, and nothing written per request.
const nginxConfig = `%[4]s
daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/nginx-body;
	proxy_temp_path       %[1]s/nginx-proxy;
	fastcgi_temp_path     %[1]s/nginx-fastcgi;
	uwsgi_temp_path       %[1]s/nginx-uwsgi;
	scgi_temp_path        %[1]s/nginx-scgi;
	keepalive_requests 1000000000;
	upstream tool {
		server %[3]s;
		keepalive 512;
		keepalive_requests 1000000000;
	}
	server {
		listen %[2]s backlog=1024;
		location / {
			proxy_pass http://tool;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`

// startNginx runs nginx with a configuration of its own before the tool.
func startNginx(ctx context.Context, command, dir, toolAddress string) (*process, string, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // the temporary directory is ours alone
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, address, toolAddress, user), 0o600); err != nil {
		return nil, "", err
	}
	p, err := start(dir, "nginx", command, "-p", dir, "-e", "stderr", "-c", file)
	if err != nil {
		return nil, "", err
	}
	if err := p.awaitListener(ctx, address); err != nil {
		p.stop()
		return nil, "", err
	}
	return p, address, nil
}

// nginxVersion is as nginx says it, empty without one.
func nginxVersion(command string) string {
	if command == "" {
		return ""
	}
	out, err := exec.Command(command, "-v").CombinedOutput()
	if err != nil {
		return ""
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx/")
	return version
}
