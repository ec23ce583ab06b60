package inject

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// harmless are the capabilities by which nobody changes the network's rules, becomes the sidecar's user, or reads what
// is not the container's own. All others are refused: the kernel gets new ones.
var harmless = []string{"AUDIT_WRITE", "CHOWN", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "NET_BIND_SERVICE", "SYS_NICE", "SYS_RESOURCE"}

// powers refuses, where egress is locked, who could undo the lock.
func (j *judgement) powers() {
	const mend = "with an egress lock a container needs securityContext: {runAsUser: NUMBER, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"
	own := field(j.container, "securityContext")
	if n := field(own, "privileged"); yes(n) {
		j.no(n, "securityContext.privileged", "is true: it could take the egress lock off", mend)
		return
	}
	if n := field(own, "procMount"); n != nil && text(n) != "Default" {
		j.no(n, "securityContext.procMount", "is "+text(n)+": it could change the settings of the network", mend)
	}
	if n := at(j.setting("seccompProfile"), "type"); text(n) == "Unconfined" {
		j.no(n, "securityContext.seccompProfile", "is Unconfined: by AF_VSOCK it could call a virtual machine's host past the lock", "write {type: RuntimeDefault}")
	}
	for _, power := range items(at(own, "capabilities", "add")) {
		if name := strings.TrimPrefix(strings.ToUpper(power.Value), "CAP_"); !slices.Contains(harmless, name) {
			j.no(power, "securityContext.capabilities.add", "has "+power.Value+", by which it could walk around the egress lock", mend)
		}
	}
	dropped := slices.ContainsFunc(items(at(own, "capabilities", "drop")), func(n *yaml.Node) bool { return strings.EqualFold(n.Value, "ALL") })
	user, known := number(j.setting("runAsUser"))
	unprivileged := yes(j.setting("runAsNonRoot")) || known && user != 0
	gains := field(own, "allowPrivilegeEscalation")
	switch {
	case !(dropped || unprivileged) || gains == nil || yes(gains):
		j.no(own, "securityContext", "lets it be root, or become root, and so take the sidecar's user", mend)
	case !known:
		j.no(own, "securityContext.runAsUser", "is missing: the image's own user may be the sidecar's, who walks through the egress lock", mend)
	}
}
