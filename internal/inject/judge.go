package inject

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// plain refuses what other tools read in other ways: a key twice, bytes in base64, and aliases, whose change would change
// elsewhere too.
func (w *workload) plain(n *yaml.Node, at string) error {
	if n.Kind == yaml.AliasNode {
		return w.refuse(n, at, "is an alias (*"+n.Value+")", "write it out: kubectl create --dry-run=client -o yaml -f FILE does")
	}
	if tag := n.ShortTag(); !slices.Contains(tags, tag) {
		return w.refuse(n, at, "has the tag "+tag, "write it without")
	}
	seen := map[string]bool{}
	for i, child := range n.Content {
		inner := index(at, i)
		if n.Kind == yaml.MappingNode {
			if i%2 == 0 {
				if seen[child.Value] {
					return w.refuse(child, path(at, child.Value), "stands there twice", "remove one")
				}
				if child.Tag == "!!merge" {
					return w.refuse(child, path(at, child.Value), "merges an alias", "write it out: kubectl create --dry-run=client -o yaml -f FILE does")
				}
				if tag := child.ShortTag(); !slices.Contains(tags, tag) || child.Kind != yaml.ScalarNode {
					return w.refuse(child, path(at, child.Value), "is no plain key ("+tag+")", "write it as text")
				}
				seen[child.Value] = true
				continue
			}
			inner = path(at, n.Content[i-1].Value)
		}
		if err := w.plain(child, inner); err != nil {
			return err
		}
	}
	return nil
}

// tags are of values that every reader takes for the same.
var tags = []string{"!!map", "!!seq", "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp"}

// shapes are the fields that are looked at or changed and are not single values; lists hold mappings.
var shapes = []struct {
	name string
	kind yaml.Kind
}{
	{"securityContext", yaml.MappingNode}, {"annotations", yaml.MappingNode}, {"nodeSelector", yaml.MappingNode},
	{"containers", yaml.SequenceNode}, {"initContainers", yaml.SequenceNode}, {"ephemeralContainers", yaml.SequenceNode}, {"volumes", yaml.SequenceNode},
	{"env", yaml.SequenceNode}, {"envFrom", yaml.SequenceNode}, {"ports", yaml.SequenceNode}, {"volumeMounts", yaml.SequenceNode},
}

// shape refuses what is not built as Kubernetes has it, where an edit would make it worse or a rule would not see it.
func (w *workload) shape(n *yaml.Node, base string) (problems Refusals) {
	for _, s := range shapes {
		v, at := field(n, s.name), path(base, s.name)
		switch {
		case v == nil:
		case v.Kind != s.kind:
			problems = append(problems, w.refuse(v, at, "is not "+map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list"}[s.kind], "correct it")...)
		case s.kind == yaml.SequenceNode:
			for i, item := range v.Content {
				if item.Kind != yaml.MappingNode {
					problems = append(problems, w.refuse(item, index(at, i), "is not a mapping", "correct it")...)
				} else if strings.HasSuffix(strings.ToLower(s.name), "containers") {
					problems = append(problems, w.shape(item, index(at, i))...)
				}
			}
		}
	}
	return problems
}

// judge finds all that would make the sidecar fail, or its rules empty, in this pod.
func (w *workload) judge(c choice) (problems Refusals) {
	no := func(n *yaml.Node, field, problem, mend string) {
		problems = append(problems, w.refuse(n, w.field(field), problem, mend)...)
	}
	spec := field(w.template, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode || len(items(field(spec, "containers"))) == 0 {
		no(w.template, "spec.containers", "are missing", "give the pod its containers")
		return problems
	}
	if problems = append(w.shape(field(w.template, "metadata"), w.field("metadata")), w.shape(spec, w.field("spec"))...); problems != nil {
		return problems
	}
	for _, shared := range []struct{ field, problem string }{
		{"hostNetwork", "is true: the sidecar's ports and loopback would be the node's, open to every process on it"},
		{"hostPID", "is true: a container that may be root could read the sidecar's memory and keys"},
		{"shareProcessNamespace", "is true: a container that may be root could read the sidecar's memory and keys"},
	} {
		if n := field(spec, shared.field); yes(n) {
			no(n, "spec."+shared.field, shared.problem, "remove it, or leave the pod alone with the annotation "+Enable+`: "false"`)
		}
	}
	if os := at(spec, "os", "name"); text(os) == "windows" {
		no(os, "spec.os.name", "is windows: there is no sidecar for it", "leave the pod alone with the annotation "+Enable+`: "false"`)
	} else if os := at(spec, "nodeSelector", "kubernetes.io/os"); text(os) == "windows" {
		no(os, "spec.nodeSelector", "chooses windows: there is no sidecar for it", "leave the pod alone with the annotation "+Enable+`: "false"`)
	}
	problems = append(problems, w.judgeMode(c)...)
	problems = append(problems, w.judgeClaim(c)...)
	problems = append(problems, w.judgeVolumes(c)...)
	problems = append(problems, w.judgeSources(c)...)
	names := map[string]bool{}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for i, container := range items(field(spec, list)) {
			j := &judgement{workload: w, choice: c, container: container, at: w.field("spec." + index(list, i)), spec: spec, ungoverned: list == "ephemeralContainers" || list == "initContainers" && c.mode == Classic}
			j.judge()
			problems = append(problems, j.problems...)
			names[text(field(container, "name"))] = true
		}
	}
	for _, name := range c.skip {
		if !names[name] {
			no(at(w.template, "metadata", "annotations", Skip), "metadata.annotations."+Skip, "names "+strconv.Quote(name)+", which the pod does not have", "correct the name")
		}
	}
	slices.SortStableFunc(problems, func(a, b Refusal) int { return a.Line - b.Line })
	return problems
}

// judgeMode refuses a container beside one that is to end: the pod never would.
func (w *workload) judgeMode(c choice) Refusals {
	if c.mode != Classic {
		return nil
	}
	if c.lock {
		return w.refuse(field(w.template, "metadata"), w.field("metadata.annotations."+Mode), "is classic, and egress is to be locked: the init containers would run before the sidecar, with no way out", "use the native mode (Kubernetes 1.29 and later), or no lock")
	}
	policy := at(w.template, "spec", "restartPolicy")
	if w.kind == "Job" || w.kind == "CronJob" || policy != nil && text(policy) != "Always" {
		return w.refuse(policy, w.field("spec.restartPolicy"), "says that the pod ends: a classic sidecar would keep it from that", "use the native mode (Kubernetes 1.29 and later)")
	}
	return nil
}

// judgeClaim refuses several pods, or an old and a new one, on one claim: a journal has one sidecar.
func (w *workload) judgeClaim(c choice) (problems Refusals) {
	if c.claim == "" {
		return nil
	}
	replicas := at(w.root, "spec", "replicas")
	if n, is := number(replicas); is && n > 1 || w.kind == "DaemonSet" {
		problems = append(problems, w.refuse(replicas, "spec.replicas", "are several pods on the one claim "+c.claim+", whose journal has one sidecar", "use one replica, or store.kind: redis with the state in an emptydir")...)
	}
	strategy := at(w.root, "spec", "strategy", "type")
	if w.kind == "Deployment" && text(strategy) != "Recreate" {
		problems = append(problems, w.refuse(strategy, "spec.strategy.type", "is not Recreate: a rollout's new pod would wait for ever for the claim "+c.claim+", which the old one holds", "write strategy: {type: Recreate}, or use store.kind: redis with the state in an emptydir")...)
	}
	return problems
}

// judgeVolumes refuses volumes of the sidecar's names that are not its own.
func (w *workload) judgeVolumes(c choice) (problems Refusals) {
	if c.again {
		return nil
	}
	made := pod.Volumes(c.config, c.secret, c.claim)
	if c.lock {
		made = append(made, pod.LockVolume())
	}
	for _, v := range made {
		if n, i := named(at(w.template, "spec", "volumes"), v.Name); n != nil && !(c.own && v.Name == pod.StateVolume) {
			problems = append(problems, w.refuse(n, w.field("spec."+index("volumes", i)), "has the name "+v.Name+", which is the sidecar's", "rename it")...)
		}
	}
	return problems
}

// judgement is one container being judged.
type judgement struct {
	*workload
	choice
	container  *yaml.Node
	spec       *yaml.Node
	at         string
	ungoverned bool // it ends before the sidecar starts, or is a person's
	problems   Refusals
}

func (j *judgement) no(n *yaml.Node, field, problem, mend string) {
	if n == nil {
		n = j.container
	}
	j.problems = append(j.problems, j.refuse(n, path(j.at, field), problem, mend)...)
}

func (j *judgement) judge() {
	name := field(j.container, "name")
	if ours(j.container) {
		if !j.again {
			j.no(name, "name", "is "+text(name)+", which is the sidecar's, and inject did not make it", "remove the container, and let inject add it")
		}
		return
	}
	j.user()
	j.ports()
	j.mounts()
	j.secrets()
	if !j.skips(j.container) && !j.ungoverned {
		j.variables()
	}
	if j.choice.lock {
		j.powers()
	}
}

// setting is a field of the container's security context, or of the pod's where the container's has none.
func (j *judgement) setting(name string) *yaml.Node {
	if n := at(j.container, "securityContext", name); n != nil {
		return n
	}
	return at(j.spec, "securityContext", name)
}

func (j *judgement) user() {
	for _, name := range []string{"runAsUser", "runAsGroup"} {
		if id, is := number(j.setting(name)); is && id == pod.UID {
			j.no(j.setting(name), "securityContext."+name, fmt.Sprintf("is %d, which is the sidecar's", pod.UID), "choose another: as that one it could read the sidecar's keys and walk through the egress lock")
		}
	}
}

func (j *judgement) ports() {
	for i, p := range items(field(j.container, "ports")) {
		n, is := number(field(p, "containerPort"))
		if is && n >= pod.ProxyPort && n <= pod.HealthPort {
			j.no(p, index("ports", i)+".containerPort", fmt.Sprintf("is %d, which is the sidecar's (%d to %d)", n, pod.ProxyPort, pod.HealthPort), "let the container listen on another port")
		}
	}
}

// mounts refuses to show a container what is the sidecar's alone: configuration, keys and journal.
func (j *judgement) mounts() {
	for i, m := range items(field(j.container, "volumeMounts")) {
		name, where := text(field(m, "name")), filepath.Clean(text(field(m, "mountPath")))
		switch {
		case name == pod.TrustVolume && j.again && where == pod.TrustDir && yes(field(m, "readOnly")):
		case slices.Contains([]string{pod.ConfigVolume, pod.SecretsVolume, pod.StateVolume, pod.TrustVolume}, name):
			j.no(m, index("volumeMounts", i), "shows the container "+name+", which is the sidecar's alone", "remove it")
		case within(where, pod.TrustDir):
			j.no(m, index("volumeMounts", i)+".mountPath", "is "+where+", where the sidecar's certificates will be", "mount it elsewhere")
		}
	}
}

// variables refuses what would lead the container elsewhere: nothing that was set is overridden in silence.
func (j *judgement) variables() {
	wanted, seen := map[string]string{}, map[string]bool{}
	for _, v := range pod.AgentEnv() {
		wanted[v.Name] = v.Value
	}
	for i, own := range items(field(j.container, "env")) {
		name := text(field(own, "name"))
		if value, is := wanted[name]; is {
			j.variable(own, index("env", i), name, value, seen[name])
			seen[name] = true
		}
	}
}

// variable judges one that the sidecar sets, too.
func (j *judgement) variable(own *yaml.Node, where, name, want string, again bool) {
	value, from := text(field(own, "value")), field(own, "valueFrom")
	mend := "remove it, or skip the container with the annotation " + Skip
	switch {
	case again:
		j.no(own, where, "sets "+name+" a second time, and the last one counts", "remove it")
	case from != nil:
		j.no(own, where, "takes "+name+" from elsewhere, and the sidecar has to set it", mend)
	case strings.EqualFold(name, "NO_PROXY") && slices.Contains(strings.Split(strings.ReplaceAll(value, " ", ""), ","), "*"):
		j.no(own, where, "sets "+name+"=*: every call would go around the sidecar", mend)
	case strings.EqualFold(name, "NO_PROXY") && strings.Contains(value, "$("):
		j.no(own, where, "sets "+name+"="+value+": what that variable names would go around the sidecar", "write the names out")
	case additive(name) || value == want:
	case isCorporate(name):
		j.no(own, where, "sets "+name+"="+withoutUser(value)+", and the sidecar has to be the proxy", mend+"; a proxy behind the sidecar is proxy.via")
	default:
		j.no(own, where, "sets "+name+"="+value+", and the sidecar has to", mend+"; certificates for upstreams go into proxy.upstream_ca")
	}
}

func isCorporate(name string) bool { return strings.HasSuffix(strings.ToUpper(name), "_PROXY") }

// withoutUser is a proxy's url without credentials: errors are logged.
func withoutUser(value string) string {
	scheme, rest, is := strings.Cut(value, "://")
	if !is {
		scheme, rest = "", value
	} else {
		scheme += "://"
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = "…@" + rest[at+1:]
	}
	return scheme + rest
}
