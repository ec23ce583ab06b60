package main

import (
	"encoding/json"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// overMember marks an entry whose members stand over the configuration file's tool of that name: what it does not name
// is the file's, and its target and secrets always are.
const overMember = "over"

func overFile(entry []byte) bool {
	var e struct{ Over bool }
	return json.Unmarshal(entry, &e) == nil && e.Over
}

// filed is the file's tool that is kept under a name; nil when there is none.
func (s *sidecar) filed(name string) *tool.Config {
	for _, t := range s.cfg.Load().Tools {
		if entryName(t.Name, t.Scope) == name {
			return &t
		}
	}
	return nil
}

// owned refuses what would send the file's credentials elsewhere, or put others in their place. A url that is the
// present one is no change: the SDKs always send one.
func (b registry) owned(filed tool.Config, spec map[string]json.RawMessage, secret string) error {
	var url string
	if raw, ok := spec["url"]; ok && json.Unmarshal(raw, &url) == nil && url != filed.URL {
		return &api.Owned{Message: "this tool stands in the configuration file, and where it sends is changed there"}
	}
	if spec["match"] != nil {
		return &api.Owned{Message: "this tool stands in the configuration file, and which calls it matches is changed there"}
	}
	if secret != "" {
		return &api.Owned{Message: "this tool stands in the configuration file, and its secrets come from there only"}
	}
	delete(spec, "url")
	return nil
}

// over is the file's tool with the fields that the members name.
func over(filed tool.Config, members map[string]json.RawMessage) (tool.Config, error) {
	spec := map[string]json.RawMessage{}
	for k, v := range members {
		if k != overMember {
			spec[k] = v
		}
	}
	spec["url"], _ = json.Marshal(filed.URL)
	text, err := json.Marshal(spec)
	if err != nil {
		return filed, err
	}
	given, err := config.ParseTool(text)
	if err != nil {
		return filed, err
	}
	for name := range members {
		switch name {
		case "timeout":
			filed.Timeout = given.Timeout
		case "max_retries":
			filed.MaxRetries = given.MaxRetries
		case "enabled":
			filed.Enabled = given.Enabled
		case "description":
			filed.Description = given.Description
		case "effect":
			filed.Effect = given.Effect
		case "body":
			filed.Body = given.Body
		case "price_usd":
			filed.Price = given.Price
		case "dedup":
			filed.Dedup = given.Dedup
		}
	}
	return filed, nil
}
