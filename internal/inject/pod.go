package inject

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// ours says whether a container is one that inject makes.
func ours(container *yaml.Node) bool {
	name := text(field(container, "name"))
	return name == pod.Name || name == pod.LockName
}

// workload injects into one pod or one template of pods. With an error nothing was changed.
func (o Options) workload(w *workload) (notes []string, err error) {
	if o.Enforce {
		if refused := o.optOut(w); refused != nil {
			return nil, refused
		}
	}
	if text(at(w.template, "metadata", "annotations", Enable)) == "false" {
		return []string{fmt.Sprintf("%s/%s: left alone: its annotation %s is false", w.kind, w.name, Enable)}, nil
	}
	if err := w.plain(w.root, ""); err != nil {
		return nil, err
	}
	c, err := o.decide(w)
	if err != nil {
		return nil, err
	}
	if problems := w.judge(c); problems != nil {
		return nil, problems
	}
	e := &edit{workload: w, choice: c, spec: field(w.template, "spec")}
	if err := e.pod(); err != nil {
		return nil, err
	}
	return e.notes, nil
}

// optOut finds the annotations by which a pod would be governed less than others.
func (o Options) optOut(w *workload) (problems Refusals) {
	for name, weaker := range map[string]func(string) bool{
		Enable:     func(v string) bool { return v == "false" },
		Skip:       func(v string) bool { return strings.Trim(v, ", ") != "" },
		EgressLock: func(v string) bool { return v == "false" && o.EgressLock != nil && *o.EgressLock },
		Mode:       func(v string) bool { return v == Classic && o.Mode != Classic }, // its init containers run before the sidecar
		Injected:   func(v string) bool { return v == Classic && o.Mode != Classic },
	} {
		if n := at(w.template, "metadata", "annotations", name); n != nil && weaker(text(n)) {
			problems = append(problems, w.refuse(n, w.field("metadata.annotations."+name), fmt.Sprintf("is %q, and here no pod opts out", text(n)), "remove the annotation")...)
		}
	}
	if problems == nil {
		return nil
	}
	return problems
}

// edit is one pod while the sidecar is put into it.
type edit struct {
	*workload
	choice
	spec  *yaml.Node
	notes []string
}

func (e *edit) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf("%s/%s: ", e.kind, e.name)+fmt.Sprintf(format, args...))
}

func (e *edit) pod() error {
	e.mark()
	e.remove()
	for _, list := range []string{"initContainers", "containers"} {
		for _, container := range items(field(e.spec, list)) {
			switch name := text(field(container, "name")); {
			case e.skips(container):
				e.note("container %s is skipped: its calls are not governed", name)
				e.strip(container)
			case list == "initContainers" && e.mode == Classic:
				e.note("init container %s runs before a classic sidecar: its calls are not governed", name)
				e.strip(container)
			default:
				e.agent(container, name)
			}
		}
	}
	if err := e.place(); err != nil {
		return err
	}
	e.settings()
	return e.volumes()
}

// mark says on the pod that its sidecar is inject's.
func (e *edit) mark() {
	e.template.Style &^= yaml.FlowStyle
	e.spec.Style &^= yaml.FlowStyle
	put(under(under(e.template, "metadata", yaml.MappingNode), "annotations", yaml.MappingNode), Injected, str(e.mode))
	if inner := at(e.root, "spec"); inner != nil {
		inner.Style &^= yaml.FlowStyle
	}
}

// remove takes out what an earlier injection put in, since it may stand elsewhere now.
func (e *edit) remove() {
	for _, name := range []string{"initContainers", "containers"} {
		if list := field(e.spec, name); list != nil {
			list.Content = slices.DeleteFunc(list.Content, ours)
		}
	}
}

// place puts sidecar and lock before all others: what starts first is what the others need.
func (e *edit) place() error {
	list, sidecar := "initContainers", pod.Sidecar(e.image)
	if e.mode == Classic {
		list, sidecar = "containers", pod.Classic(e.image)
	}
	if e.fleeting {
		sidecar.Env = append(sidecar.Env, pod.EnvVar{Name: "OO_STORE__EMBEDDED__LIFETIME", Value: "pod"})
	}
	if field(e.spec, list) == nil {
		putBefore(e.spec, "containers", list, &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"})
	}
	made := []pod.Container{sidecar}
	if e.lock {
		made = append(made, pod.EgressLock(e.lockImage))
	}
	for i, container := range made {
		var n yaml.Node
		if err := n.Encode(container); err != nil {
			return err
		}
		insert(under(e.spec, list, yaml.SequenceNode), i, &n)
	}
	without(e.spec, "initContainers", func(*yaml.Node) bool { return false }) // one that a classic sidecar left empty
	return nil
}

// agent leads one container through the sidecar.
func (e *edit) agent(container *yaml.Node, name string) {
	container.Style &^= yaml.FlowStyle
	env := under(container, "env", yaml.SequenceNode)
	for _, v := range pod.AgentEnv() {
		e.variable(env, name, v)
	}
	if len(items(field(container, "envFrom"))) > 0 {
		e.note("container %s takes variables from elsewhere (envFrom); where they name a proxy or certificates, the sidecar's win", name)
	}
	mounts := under(container, "volumeMounts", yaml.SequenceNode)
	if m, _ := named(mounts, pod.TrustVolume); m == nil {
		e.add(mounts, pod.AgentMount())
	}
}

// strip takes from a container what an earlier injection gave it.
func (e *edit) strip(container *yaml.Node) {
	if !e.again {
		return
	}
	made := pod.AgentEnv()
	without(container, "env", func(n *yaml.Node) bool {
		return slices.Contains(made, pod.EnvVar{Name: text(field(n, "name")), Value: text(field(n, "value"))})
	})
	without(container, "volumeMounts", func(n *yaml.Node) bool { return text(field(n, "name")) == pod.TrustVolume })
}

// without takes items out of a sequence, and with the last one the sequence.
func without(m *yaml.Node, name string, unwanted func(*yaml.Node) bool) {
	list := field(m, name)
	if list == nil {
		return
	}
	if list.Content = slices.DeleteFunc(list.Content, unwanted); len(list.Content) == 0 {
		drop(m, name)
	}
}

// variable sets one of the sidecar's variables, unless the container has a value that judge let pass.
func (e *edit) variable(env *yaml.Node, container string, v pod.EnvVar) {
	own, _ := named(env, v.Name)
	if own == nil {
		e.add(env, v)
		return
	}
	value := field(own, "value")
	switch {
	case additive(v.Name) && v.Name == javaOptions:
		joined := pod.Local().Java(text(value))
		if joined != text(value) {
			value.SetString(joined)
			e.note("container %s: the sidecar's options are added to its %s", container, v.Name)
		}
	case additive(v.Name) && text(value) != v.Value:
		e.note("container %s: its own %s=%s stays: calls to those go around the sidecar", container, v.Name, text(value))
	}
}

const javaOptions = "JAVA_TOOL_OPTIONS"

// additive says of which variables a container may have a value of its own.
func additive(name string) bool { return name == javaOptions || strings.EqualFold(name, "NO_PROXY") }

// add appends what pod describes to a sequence.
func (e *edit) add(list *yaml.Node, v any) {
	n := &yaml.Node{}
	if n.Encode(v) == nil {
		n.Style |= yaml.FlowStyle // one line each: there are many
		list.Content = append(list.Content, n)
	}
}

// settings are those of the pod itself.
func (e *edit) settings() {
	if grace, is := number(field(e.spec, "terminationGracePeriodSeconds")); !is {
		var n yaml.Node
		_ = n.Encode(pod.GraceSeconds)
		put(e.spec, "terminationGracePeriodSeconds", &n)
	} else if grace < pod.DrainSeconds+5 {
		e.note("terminationGracePeriodSeconds is %d: calls that run longer are recorded unknown; set proxy.drain below it", grace)
	}
	if e.fleeting {
		e.note("its state lies in an emptyDir: at most once until the pod is deleted; state pvc:NAME keeps it, or store.kind: redis")
		return
	}
	security := under(e.spec, "securityContext", yaml.MappingNode)
	if field(security, "fsGroup") == nil {
		var group yaml.Node
		_ = group.Encode(pod.UID)
		put(security, "fsGroup", &group)
		put(security, "fsGroupChangePolicy", str("OnRootMismatch"))
		e.note("fsGroup is set to %d, so that the sidecar may write to its claim", pod.UID)
	}
}

// volumes are the sidecar's.
func (e *edit) volumes() error {
	list := under(e.spec, "volumes", yaml.SequenceNode)
	made := pod.Volumes(e.config, e.secret, e.claim)
	if e.lock {
		made = append(made, pod.LockVolume())
	} else if _, i := named(list, pod.LockVolume().Name); i >= 0 && e.again {
		list.Content = slices.Delete(list.Content, i, i+1)
	}
	for _, v := range made {
		if e.own && v.Name == pod.StateVolume {
			continue
		}
		var n yaml.Node
		if err := n.Encode(v); err != nil {
			return err
		}
		if _, i := named(list, v.Name); i < 0 {
			list.Content = append(list.Content, &n)
		} else if !equal(list.Content[i], &n) {
			list.Content[i] = &n
		}
	}
	return nil
}
