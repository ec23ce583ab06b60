package injector

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/oo-sidecar/oo-sidecar/internal/inject"
)

// maxReview is how large a review may be. etcd takes no object above 1.5 MiB; an update carries two of them.
const maxReview = 8 << 20

// Path is where reviews are sent.
const Path = "/inject"

// review is admission.k8s.io/v1 AdmissionReview, as far as pods need it.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID       string          `json:"uid"`
	Kind      groupKind       `json:"kind"`
	Operation string          `json:"operation"`
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	DryRun    bool            `json:"dryRun"`
	Object    json.RawMessage `json:"object"`
}

type groupKind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

type response struct {
	UID       string   `json:"uid"`
	Allowed   bool     `json:"allowed"`
	Status    *status  `json:"status,omitempty"`
	Patch     []byte   `json:"patch,omitempty"` // base64 on the wire
	PatchType string   `json:"patchType,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

type status struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// never are the namespaces in which a webhook that fails could keep the cluster from mending itself.
var never = []string{"kube-system", "kube-public", "kube-node-lease"}

// Reviews answers the API server's questions about pods. It changes nothing anywhere, so a dry run is like any other.
type Reviews struct {
	Options inject.Options
	Log     *slog.Logger
}

// ServeHTTP answers one review: 200 with the verdict, or 4xx for what is no review.
func (v *Reviews) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != Path {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "reviews are posted", http.StatusMethodNotAllowed)
		return
	}
	asked, err := readReview(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		code := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			code = http.StatusRequestEntityTooLarge
		}
		v.Log.Warn("no review", "error", err.Error())
		http.Error(w, err.Error(), code)
		return
	}
	answer := review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: v.judge(asked.Request)}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func readReview(body io.Reader) (*review, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var asked review
	if err := json.Unmarshal(data, &asked); err != nil {
		return nil, err
	}
	if asked.APIVersion != "admission.k8s.io/v1" || asked.Kind != "AdmissionReview" || asked.Request == nil || asked.Request.UID == "" {
		return nil, errors.New("this is no AdmissionReview of admission.k8s.io/v1 with a request and its uid")
	}
	return &asked, nil
}

// judge says whether the pod may be made, and with which patch.
func (v *Reviews) judge(r *request) *response {
	answer := &response{UID: r.UID, Allowed: true}
	if r.Operation != "CREATE" || r.Kind != (groupKind{"", "v1", "Pod"}) || slices.Contains(never, r.Namespace) {
		return answer
	}
	patch, notes, err := inject.Pod(r.Object, v.Options)
	answer.Warnings = warnings(notes)
	switch {
	case err != nil:
		answer.Allowed = false
		answer.Status = &status{http.StatusUnprocessableEntity, "Invalid", "oo-sidecar: " + err.Error()}
	case patch != nil:
		answer.Patch, err = json.Marshal(patch)
		if err != nil { // an injection that cannot be said is none
			return &response{UID: r.UID, Status: &status{http.StatusInternalServerError, "InternalError", err.Error()}}
		}
		answer.PatchType = "JSONPatch"
	}
	v.Log.Info("review", "namespace", r.Namespace, "pod", r.Name, "allowed", answer.Allowed, "steps", len(patch), "dry_run", r.DryRun, "problem", problem(answer))
	return answer
}

func problem(r *response) string {
	if r.Status == nil {
		return ""
	}
	return r.Status.Message
}

// warnings are notes as the API server passes them on: longer ones it cuts.
func warnings(notes []string) []string {
	const most, length = 16, 250
	list := make([]string, 0, len(notes))
	for _, n := range notes[:min(len(notes), most)] {
		n = "oo-sidecar: " + n
		if runes := []rune(n); len(runes) > length {
			n = string(runes[:length-1]) + "…"
		}
		list = append(list, n)
	}
	return list
}
