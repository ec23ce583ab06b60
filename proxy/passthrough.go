package proxy

import (
	"fmt"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// modelAPIs are the hosts that the word model-apis stands for in proxy.passthrough: the public endpoints at which
// language models answer prompts. A prompt is no tool call: it may be repeated, it is streamed, and its answer is
// never kept. An entry that begins with a dot stands for every name below it. Hosts that also take actions on an
// account (object stores, management APIs) do not belong here. Keep it sorted by provider.
var modelAPIs = []string{
	"api.ai21.com",
	".cognitiveservices.azure.com", ".openai.azure.com", ".services.ai.azure.com", // Azure OpenAI, Azure AI Foundry
	".inference.ai.azure.com", ".models.ai.azure.com",
	"api.anthropic.com",
	"api.cerebras.ai",
	"api.cohere.ai", "api.cohere.com",
	"api.deepinfra.com",
	"api.deepseek.com",
	"api.fireworks.ai",
	"generativelanguage.googleapis.com", "aiplatform.googleapis.com", // Gemini, Vertex AI; regions below
	"api.groq.com",
	"api-inference.huggingface.co", "router.huggingface.co", ".endpoints.huggingface.cloud",
	"api.minimax.io",
	"api.mistral.ai", "codestral.mistral.ai",
	"api.moonshot.ai", "api.moonshot.cn",
	"integrate.api.nvidia.com",
	"api.openai.com",
	"openrouter.ai",
	"api.perplexity.ai",
	"api.replicate.com",
	"api.sambanova.ai",
	"api.together.ai", "api.together.xyz",
	"api.voyageai.com",
	"api.x.ai",
	"dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com",
	"open.bigmodel.cn", "api.z.ai",
}

// modelRegions are hosts with a region in their name: what stands before it and behind it.
var modelRegions = [][2]string{
	{"bedrock-runtime.", ".amazonaws.com"}, {"bedrock-runtime-fips.", ".amazonaws.com"}, // AWS Bedrock
	{"", "-aiplatform.googleapis.com"}, // Vertex AI
}

// Passthrough says which hosts are no tools. It is immutable.
type Passthrough struct {
	hosts   map[string]bool
	below   []string // suffixes that begin with a dot
	regions [][2]string
}

// NewPassthrough reads the list of proxy.passthrough: host names, names below a domain (.example.com or
// *.example.com), and the word model-apis.
func NewPassthrough(list []string) (*Passthrough, error) {
	p := &Passthrough{hosts: map[string]bool{}}
	for _, entry := range list {
		if entry == "model-apis" {
			p.regions = modelRegions
			for _, host := range modelAPIs {
				p.add(host)
			}
			continue
		}
		host := strings.ToLower(strings.TrimPrefix(entry, "*"))
		if spelling, err := tool.ParseAuthority("https", strings.TrimPrefix(host, ".")); err != nil || bareHost(spelling) != strings.TrimPrefix(host, ".") {
			return nil, fmt.Errorf("proxy.passthrough: %q is not a host name without port, .domain, or the word model-apis", entry)
		}
		p.add(host)
	}
	return p, nil
}

func (p *Passthrough) add(host string) {
	if host[0] == '.' {
		p.below = append(p.below, host)
		return
	}
	p.hosts[host] = true
}

// Match says whether the host (lower case, without port) is no tool.
func (p *Passthrough) Match(host string) bool {
	if p.hosts[host] {
		return true
	}
	for _, suffix := range p.below {
		if len(host) > len(suffix) && strings.HasSuffix(host, suffix) {
			return true
		}
	}
	for _, r := range p.regions {
		region, ok := strings.CutPrefix(host, r[0])
		region, ok2 := strings.CutSuffix(region, r[1])
		if ok && ok2 && region != "" && !strings.Contains(region, ".") {
			return true
		}
	}
	return false
}
