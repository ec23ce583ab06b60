package k8s

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// store is buildah with its images in a directory of the test's own.
type store struct {
	t   *testing.T
	dir string
}

func (s store) buildah(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 12*time.Minute)
	defer cancel()
	all := append([]string{"--root", filepath.Join(s.dir, "root"), "--runroot", filepath.Join(s.dir, "run"), "--storage-driver", "vfs"}, args...)
	cmd := exec.CommandContext(ctx, "buildah", all...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("buildah %q: %v\n%s%s", args, err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

// standIns makes the two bases from what is on this machine, since no registry can be reached: one with a shell and
// this Go, mounted when it is used; one that has what distroless has of what matters here.
func (s store) standIns() (flags []string) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "bases")
	roots, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(dir, "static", "etc", "ssl", "certs", "ca-certificates.crt"), string(roots))
	write(s.t, filepath.Join(dir, "static", "etc", "passwd"), "root:x:0:0::/:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n")
	write(s.t, filepath.Join(dir, "static.Dockerfile"), "FROM scratch\nCOPY static /\nUSER 65532:65532\n")
	for _, d := range []string{"usr", "tmp", "root", "etc", "gomodules", "goroot", "gocache"} {
		if err := os.MkdirAll(filepath.Join(dir, "go", d), 0o777); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(dir, "go", name)); err != nil {
			s.t.Fatal(err)
		}
	}
	write(s.t, filepath.Join(dir, "go.Dockerfile"), "FROM scratch\nCOPY go /\nENV PATH=/goroot/bin:/usr/bin:/bin GOROOT=/goroot GOPROXY=file:///gomodules GOSUMDB=off GOTOOLCHAIN=local GOFLAGS= GOCACHE=/gocache GOPATH=/root/go HOME=/root\n")
	for _, name := range []string{"static", "go"} {
		s.buildah("bud", "-f", filepath.Join(dir, name+".Dockerfile"), "-t", "localhost/base-"+name, dir)
	}
	cache := goEnv(s.t, "GOCACHE")
	if os.Getenv("CI") == "true" { // minutes, for a build that has nothing in common with the others
		cache = filepath.Join(s.dir, "gocache")
		if err := os.Mkdir(cache, 0o777); err != nil {
			s.t.Fatal(err)
		}
	}
	return []string{"--build-arg", "GO_IMAGE=localhost/base-go", "--build-arg", "BASE_IMAGE=localhost/base-static",
		"-v", "/usr:/usr:ro", "-v", goEnv(s.t, "GOROOT") + ":/goroot:ro", "-v", cache + ":/gocache",
		"-v", filepath.Join(goEnv(s.t, "GOMODCACHE"), "cache", "download") + ":/gomodules:ro"}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// image is the built one: its configuration and a container's root.
type image struct {
	root   string
	config imageConfig
	binary string // on this machine
}

type imageConfig struct {
	User        string
	Entrypoint  []string
	Cmd         []string
	Env         []string
	Labels      map[string]string
	Healthcheck struct{ Test []string }
}

// buildImage builds the Dockerfile of the repository as it is.
func buildImage(t *testing.T) image {
	t.Helper()
	stand.Program(t, "buildah")
	stand.Root(t, "build an image and run it")
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	modules := exec.Command("go", "mod", "download")
	modules.Dir = root
	if out, err := modules.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "oo-image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := store{t, dir}
	began := time.Now()
	build := append([]string{"bud", "--pull-never", "--isolation", "chroot", "--format", "docker", "-t", "localhost/oo-sidecar",
		"--build-arg", "VERSION=v9.8.7", "--build-arg", "REVISION=abc123"}, s.standIns()...)
	s.buildah(append(build, "-f", filepath.Join(root, "Dockerfile"), root)...)
	t.Logf("built in %s", time.Since(began).Round(time.Second))

	var inspected struct{ Docker struct{ Config imageConfig } }
	if err := json.Unmarshal([]byte(s.buildah("inspect", "--type", "image", "localhost/oo-sidecar")), &inspected); err != nil {
		t.Fatal(err)
	}
	container := s.buildah("from", "--pull-never", "localhost/oo-sidecar")
	mounted := s.buildah("mount", container)
	return image{mounted, inspected.Docker.Config, filepath.Join(mounted, "oo-sidecar")}
}

// TestImage builds the real Dockerfile on stand-in bases and runs what came out of it.
func TestImage(t *testing.T) {
	img := buildImage(t)
	t.Run("contents", img.contents)
	t.Run("reproducible", img.reproducible)
	t.Run("runs", img.runs)
}

// contents: the base's files and the binary.
func (img image) contents(t *testing.T) {
	var files []string
	var size int64
	err := filepath.WalkDir(img.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files, size = append(files, strings.TrimPrefix(path, img.root)), size+info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/etc/passwd", "/etc/ssl/certs/ca-certificates.crt", "/oo-sidecar"}; !slices.Equal(files, want) {
		t.Errorf("the image holds %q, wanted %q", files, want)
	}
	const ofBase = 3 << 20 // what distroless/static has besides: time zones, a few names
	if size+ofBase > 25<<20 {
		t.Errorf("the image is %d bytes", size+ofBase)
	}
	t.Logf("%.1f MB with the certificates", float64(size)/1e6)
	c := img.config
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/oo-sidecar"}) || !slices.Equal(c.Cmd, []string{"serve"}) || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/oo-sidecar", "health"}) {
		t.Errorf("configuration %+v", c)
	}
	for name, want := range map[string]string{"title": "oo-sidecar", "licenses": "Apache-2.0", "version": "v9.8.7", "revision": "abc123"} {
		if got := c.Labels["org.opencontainers.image."+name]; got != want {
			t.Errorf("label %s is %q, wanted %q", name, got, want)
		}
	}
}

// reproducible: the same files built in another place by another command (in CI also from an empty cache) are the same bytes.
func (img image) reproducible(t *testing.T) {
	again := filepath.Join(t.TempDir(), "oo-sidecar")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version=v9.8.7", "-o", again, "./cmd/oo-sidecar")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=local")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if one, two := digest(t, img.binary), digest(t, again); one != two {
		t.Errorf("the image's binary is %s, another build %s", one, two)
	} else {
		t.Logf("sha256:%s", one)
	}
	if out, err := exec.Command(img.binary, "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "v9.8.7") {
		t.Errorf("version: %v %s", err, out)
	}
}

func digest(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}
