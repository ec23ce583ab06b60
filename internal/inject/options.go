// Package inject adds the sidecar to the pods of Kubernetes manifests, and refuses, with place and mend, what it cannot
// make hold there. It works on the documents themselves, so that what it does not know stays as it is.
package inject

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// Annotations of a pod (of the template, in a workload). They win over the options.
const (
	annotations = "oo-sidecar/"

	Enable     = annotations + "inject"          // "false": leave the pod alone
	Skip       = annotations + "skip-containers" // comma-separated: containers that get neither variables nor certificates
	ConfigMap  = annotations + "config-map"
	Secret     = annotations + "secret"
	State      = annotations + "state"
	Mode       = annotations + "mode"        // native or classic
	EgressLock = annotations + "egress-lock" // "true" or "false"

	// Injected marks a pod whose sidecar inject made, and may make anew; its value is the mode.
	Injected = annotations + "injected"
)

// Modes are how the sidecar stands in the pod.
const (
	Native  = "native"  // an init container that goes on: Kubernetes 1.29 and later
	Classic = "classic" // a container like the agent's
)

// Options are what may differ from pod to pod. Empty ones are what the pod has already, if it was injected before, else
// the defaults.
type Options struct {
	Image      string // of the sidecar
	LockImage  string // of the egress lock
	ConfigMap  string // = oo-sidecar
	Secret     string // = oo-sidecar
	Mode       string // = native
	State      string // = the pod's own volume oo-sidecar-state; else emptydir, or pvc:NAME; see ParseState
	EgressLock *bool  // = false
	Enforce    bool   // pods that would rather not be governed are refused: annotations may not opt out
}

// ParseState reads a choice of the volume for the sidecar's state: emptydir, which ends with the pod, or pvc:NAME.
func ParseState(s string) (claim string, err error) {
	if s == "emptydir" {
		return "", nil
	}
	claim, is := strings.CutPrefix(s, "pvc:")
	if !is || !validName.MatchString(claim) {
		return "", fmt.Errorf("%q is no volume for the state; write emptydir (it goes with the pod) or pvc:NAME", s)
	}
	return claim, nil
}

// validName is a DNS-1123 subdomain.
var validName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)

// Check says what of the options cannot be.
func (o Options) Check() error {
	var problems []error
	for what, name := range map[string]string{"config map": o.ConfigMap, "secret": o.Secret} {
		if name != "" && !validName.MatchString(name) {
			problems = append(problems, fmt.Errorf("%q cannot be the name of a %s", name, what))
		}
	}
	if o.Mode != "" && o.Mode != Native && o.Mode != Classic {
		problems = append(problems, fmt.Errorf("%q is no mode; write native, or classic for Kubernetes before 1.29", o.Mode))
	}
	if o.State != "" {
		_, err := ParseState(o.State)
		problems = append(problems, err)
	}
	for _, image := range []string{o.Image, o.LockImage} {
		if strings.ContainsAny(image, " \t\n") {
			problems = append(problems, fmt.Errorf("%q is no image", image))
		}
	}
	return errors.Join(problems...)
}

// choice is what holds for one pod: every option decided.
type choice struct {
	image, lockImage string
	config, secret   string
	mode             string
	claim            string // of the state; empty: none
	own              bool   // the pod has a volume for the state, which stays
	fleeting         bool   // the state goes with the pod
	lock             bool
	skip             []string
	again            bool // the pod was injected before
}

// decide puts together what annotations, options, an earlier injection and the defaults say, in this order.
func (o Options) decide(w *workload) (choice, error) {
	notes := at(w.template, "metadata", "annotations")
	say := func(name, option, former, otherwise string) string {
		for _, v := range []string{text(field(notes, name)), option, former} {
			if v != "" {
				return v
			}
		}
		return otherwise
	}
	was := former(w)
	all := Options{
		ConfigMap: say(ConfigMap, o.ConfigMap, was.ConfigMap, pod.Name),
		Secret:    say(Secret, o.Secret, was.Secret, pod.Name),
		State:     say(State, o.State, "", ""),
		Mode:      say(Mode, o.Mode, was.Mode, Native),
		Image:     say("", o.Image, was.Image, pod.Image),
		LockImage: say("", o.LockImage, was.LockImage, pod.LockImage),
	}
	lock := o.EgressLock
	if lock == nil {
		lock = was.EgressLock
	}
	asked := text(field(notes, EgressLock))
	if err := all.Check(); err != nil {
		return choice{}, w.refuse(notes, w.field("metadata.annotations"), "are wrong: "+strings.ReplaceAll(err.Error(), "\n", "; "), "correct them")
	}
	if asked != "" && asked != "true" && asked != "false" {
		return choice{}, w.refuse(notes, w.field("metadata.annotations."+EgressLock), fmt.Sprintf("is %q", asked), `write "true" or "false"`)
	}
	c := choice{image: all.Image, lockImage: all.LockImage, config: all.ConfigMap, secret: all.Secret, mode: all.Mode, again: was.Mode != ""}
	c.state(w, all.State)
	c.lock = asked == "true" || asked == "" && lock != nil && *lock
	for name := range strings.SplitSeq(text(field(notes, Skip)), ",") {
		if name = strings.TrimSpace(name); name != "" {
			c.skip = append(c.skip, name)
		}
	}
	return c, nil
}

// former is how a pod was injected before; empty when it was not.
func former(w *workload) (was Options) {
	was.Mode = text(at(w.template, "metadata", "annotations", Injected))
	if was.Mode == "" {
		return Options{}
	}
	spec := field(w.template, "spec")
	locked := false
	for _, list := range []string{"initContainers", "containers"} {
		if c, _ := named(field(spec, list), pod.Name); c != nil {
			was.Image = text(field(c, "image"))
		}
		if c, _ := named(field(spec, list), pod.LockName); c != nil {
			locked, was.LockImage = true, text(field(c, "image"))
		}
	}
	was.EgressLock = &locked
	volumes := field(spec, "volumes")
	volume := func(name string, steps ...string) string {
		v, _ := named(volumes, name)
		return text(at(v, steps...))
	}
	was.ConfigMap = volume(pod.ConfigVolume, "configMap", "name")
	was.Secret = volume(pod.SecretsVolume, "secret", "secretName")
	return was
}

// state decides where the journal lies. A volume that the pod has for it, perhaps by a claim template, is only replaced
// when somebody asks for another one: with the journal goes what the sidecar knows.
func (c *choice) state(w *workload, asked string) {
	for _, claim := range items(at(w.root, "spec", "volumeClaimTemplates")) {
		c.own = c.own || text(at(claim, "metadata", "name")) == pod.StateVolume
	}
	volume, _ := named(at(w.template, "spec", "volumes"), pod.StateVolume)
	switch {
	case asked != "":
		c.claim, _ = ParseState(asked)
		c.fleeting = c.claim == ""
		c.own = false
	case c.own:
	case volume != nil:
		c.own = true
		c.claim = text(at(volume, "persistentVolumeClaim", "claimName"))
		c.fleeting = field(volume, "emptyDir") != nil || field(volume, "ephemeral") != nil
	default:
		c.fleeting = true
	}
}

func (c choice) skips(container *yaml.Node) bool {
	return slices.Contains(c.skip, text(field(container, "name")))
}
