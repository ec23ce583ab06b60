package inject

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// workload is one pod, or what makes pods.
type workload struct {
	kind, name string
	root       *yaml.Node
	template   *yaml.Node // what has the pod's metadata and spec
	at         string     // the template's path; empty for a pod
}

// templates says by kind where the template of the pods stands.
var templates = map[string][]string{
	"Pod":                   {},
	"Deployment":            {"spec", "template"},
	"StatefulSet":           {"spec", "template"},
	"DaemonSet":             {"spec", "template"},
	"ReplicaSet":            {"spec", "template"},
	"ReplicationController": {"spec", "template"},
	"Job":                   {"spec", "template"},
	"CronJob":               {"spec", "jobTemplate", "spec", "template"},
}

// groups are the api groups whose kinds these are; others have kinds of the same names.
var groups = []string{"", "apps", "batch", "extensions"}

// object injects into the workload that an object is, or into those of a list.
func (o Options) object(root *yaml.Node) (notes []string, err error) {
	if problems := unclear(root); problems != nil {
		return nil, problems
	}
	kind := text(field(root, "kind"))
	if list := field(root, "items"); strings.HasSuffix(kind, "List") && list != nil {
		return o.list(list)
	}
	group, _, versioned := strings.Cut(text(field(root, "apiVersion")), "/")
	if !versioned {
		group = ""
	}
	steps, known := templates[kind]
	if !known || !slices.Contains(groups, group) {
		if at(root, "spec", "template", "spec", "containers") != nil {
			notes = append(notes, fmt.Sprintf("%s %s is passed unchanged, although it has a pod's template: this kind is not known", kind, text(at(root, "metadata", "name"))))
		}
		return notes, nil
	}
	w := &workload{kind: kind, root: root, name: text(at(root, "metadata", "name")), at: strings.Join(steps, ".")}
	if w.name == "" {
		w.name = text(at(root, "metadata", "generateName"))
	}
	if w.template = at(root, steps...); w.template == nil || w.template.Kind != yaml.MappingNode {
		return nil, w.refuse(root, w.at, "is missing", "give the workload its pod's template")
	}
	return o.workload(w)
}

// unclear refuses an object of which readers could differ in what it is: it might be a workload to another.
func unclear(root *yaml.Node) (problems Refusals) {
	w := &workload{kind: "object", name: text(at(root, "metadata", "name"))}
	no := func(n *yaml.Node, field, problem string) {
		problems = append(problems, w.refuse(n, field, problem, "write it out: kubectl create --dry-run=client -o yaml -f FILE does")...)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch known := slices.Contains([]string{"kind", "apiVersion", "items"}, key.Value); {
		case key.Kind != yaml.ScalarNode || !slices.Contains(tags, key.ShortTag()):
			no(key, key.Value, "is no plain key ("+key.ShortTag()+")")
		case seen[key.Value]:
			no(key, key.Value, "stands there twice")
		case known && (value.Kind == yaml.AliasNode || !slices.Contains(tags, value.ShortTag())):
			no(value, key.Value, "is an alias, or has a tag ("+value.ShortTag()+")")
		}
		seen[key.Value] = true
	}
	for i, item := range items(field(root, "items")) {
		if item.Kind != yaml.MappingNode && strings.HasSuffix(text(field(root, "kind")), "List") {
			no(item, index("items", i), "is not a mapping")
		}
	}
	return problems
}

func (o Options) list(list *yaml.Node) (notes []string, err error) {
	var all Refusals
	for _, item := range items(list) {
		said, err := o.object(item)
		notes = append(notes, said...)
		if refused, ok := err.(Refusals); ok {
			all = append(all, refused...)
		} else if err != nil {
			return notes, err
		}
	}
	if all != nil {
		return notes, all
	}
	return notes, nil
}

func (w *workload) field(name string) string { return path(w.at, name) }

// Refusal is why a workload cannot be injected.
type Refusal struct {
	Line          int    // in its document; 0: none
	Object        string // kind and name
	Field         string // path of the field
	Problem, Mend string
}

func (r Refusal) Error() string {
	return fmt.Sprintf("%s: %s %s; %s", r.Object, r.Field, r.Problem, r.Mend)
}

// Refusals are all that is in the way of one document.
type Refusals []Refusal

func (all Refusals) Error() string {
	var texts []string
	for _, r := range all {
		texts = append(texts, r.Error())
	}
	return strings.Join(texts, "\n")
}

func (w *workload) refuse(n *yaml.Node, field, problem, mend string) Refusals {
	line := 0
	if n != nil {
		line = n.Line
	}
	return Refusals{{Line: line, Object: w.kind + "/" + w.name, Field: field, Problem: problem, Mend: mend}}
}
