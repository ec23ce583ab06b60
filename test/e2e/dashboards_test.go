package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"go.yaml.in/yaml/v3"
)

// scraped are the metrics of a /metrics output: the labels of each, and the values that were seen.
type scraped map[string]map[string][]string

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

func scrape(t *testing.T, s *sidecar) scraped {
	t.Helper()
	resp, err := http.Get("http://" + s.health + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	all := scraped{}
	for line := range strings.Lines(string(text)) {
		m := sampleLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if all[m[1]] == nil {
			all[m[1]] = map[string][]string{}
		}
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			all[m[1]][l[1]] = append(all[m[1]][l[1]], l[2])
		}
	}
	return all
}

// scrapers are the labels that Prometheus gives to whatever it scrapes.
var scrapers = []string{"instance", "job"}

// query is one expression and where it stands.
type query struct {
	where, expr string
	shown       []string // labels that its title or text names
}

// wrong says what of a query the scrape does not have: a metric, a label of one, or a value that no code gives.
func (all scraped) wrong(q query, words string) (problems []string) {
	expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(q.expr)
	parsed, err := metricsql.Parse(expr)
	if err != nil {
		return []string{err.Error()}
	}
	labels := slices.Clone(scrapers) // of any metric in it
	asked := slices.Clone(q.shown)
	found := false
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.AggrFuncExpr:
			asked = append(asked, e.Modifier.Args...)
		case *metricsql.BinaryOpExpr:
			asked = append(append(asked, e.GroupModifier.Args...), e.JoinModifier.Args...)
		case *metricsql.MetricExpr:
			found = true
			problems = append(problems, all.wrongMetric(e, words, &labels)...)
		}
	})
	if !found {
		problems = append(problems, "names no metric")
	}
	for _, label := range asked {
		if !slices.Contains(labels, label) {
			problems = append(problems, "none of its metrics has the label "+label)
		}
	}
	return problems
}

func (all scraped) wrongMetric(e *metricsql.MetricExpr, words string, labels *[]string) (problems []string) {
	for _, filters := range e.LabelFilterss {
		name := ""
		for _, f := range filters {
			if f.Label == "__name__" {
				name = f.Value
			}
		}
		has, exists := all[name]
		if !exists {
			problems = append(problems, "there is no metric "+name)
			continue
		}
		for label := range has {
			*labels = append(*labels, label)
		}
		for _, f := range filters {
			if f.Label == "__name__" || slices.Contains(scrapers, f.Label) {
				continue
			}
			if has[f.Label] == nil {
				problems = append(problems, name+" has no label "+f.Label)
			} else if !slices.Contains(has[f.Label], f.Value) && !strings.Contains(words, `"`+f.Value+`"`) {
				problems = append(problems, name+"{"+f.Label+"} is never "+f.Value)
			}
		}
	}
	return problems
}

var templated = regexp.MustCompile(`\$labels\.(\w+)|\{\{\s*(\w+)\s*\}\}`)

// named are the labels that a text written for Prometheus or Grafana names.
func named(text string) (labels []string) {
	for _, m := range templated.FindAllStringSubmatch(text, -1) {
		labels = append(labels, m[1]+m[2])
	}
	return labels
}

// alertQueries reads the rules as Prometheus does: no field that it does not know.
func alertQueries(t *testing.T) (queries []query) {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "deploy", "prometheus", "oo-sidecar.rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] || r.Annotations["summary"] == "" || !slices.Contains([]string{"page", "ticket", "info"}, r.Labels["severity"]) {
				t.Errorf("%s: twice there, or without summary and severity", r.Alert)
			}
			seen[r.Alert] = true
			queries = append(queries, query{r.Alert, r.Expr, named(r.Annotations["summary"] + r.Annotations["description"])})
		}
	}
	return queries
}

func dashboardQueries(t *testing.T) (queries []query) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "oo-sidecar.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: no title or query, or a number that another has", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			queries = append(queries, query{p.Title, target.Expr, named(target.LegendFormat)})
		}
	}
	values := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, v := range board.Templating.List {
		if m := values.FindStringSubmatch(v.Definition); m != nil {
			queries = append(queries, query{"variable " + v.Name, m[1], []string{m[2]}})
		}
	}
	return queries
}

// TestAlertsAndDashboardsFitTheMetrics holds every expression that is shipped against what a sidecar serves that has
// executed, replayed, refused and lost a call.
func TestAlertsAndDashboardsFitTheMetrics(t *testing.T) {
	a := act(t, func(x *scene) {
		if x.name() == "lost" {
			x.reset()
			return
		}
		ok(x)
	})
	s := governed(t, settings{"max_spend_usd_per_day": "1.00"}, a.tool("paid", settings{"price_usd": "0.60"}), a.tool("lost", nil))
	for _, c := range []struct{ tool, body, decision string }{
		{"paid", `{"n":1}`, "executed"}, {"paid", `{"n":1}`, "dedup"}, {"paid", `{"n":2}`, "blocked"}, {"lost", `{}`, "executed"},
	} {
		if got := s.call(c.tool, c.body); got.decision() != c.decision {
			t.Fatalf("%s %s: %d %s, wanted %s", c.tool, c.body, got.status, got.decision(), c.decision)
		}
	}
	all := scrape(t, s)
	if spent := all["oo_sidecar_spend_today_micro_usd"]["agent"]; !slices.Contains(spent, "e2e-agent") {
		t.Errorf("the budget is shown of %v", spent)
	}
	code, err := os.ReadFile(filepath.Join("..", "..", "internal", "metrics", "series.go"))
	if err != nil {
		t.Fatal(err)
	}
	alerts, panels := alertQueries(t), dashboardQueries(t)
	if len(alerts) < 15 || len(panels) < 25 {
		t.Fatalf("only %d alerts and %d queries of panels were found", len(alerts), len(panels))
	}
	used := ""
	for _, q := range append(alerts, panels...) {
		used += q.expr + "\n"
		for _, problem := range all.wrong(q, string(code)) {
			t.Errorf("%s: %s: %s", q.where, q.expr, problem)
		}
	}
	for name := range all { // nothing that the sidecar tells goes unseen
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "oo_sidecar_") && !strings.Contains(used, base) {
			t.Errorf("neither an alert nor a panel uses %s", name)
		}
	}
	for _, unfit := range []query{
		{expr: "oo_sidecar_call_total"}, {expr: `oo_sidecar_calls_total{agent="a"}`}, {expr: `oo_sidecar_calls_total{reason="nope"}`},
		{expr: "sum by (agent) (oo_sidecar_calls_total)"}, {expr: "oo_sidecar_unknown_outcomes >"}, {expr: "oo_sidecar_unknown_outcomes", shown: []string{"tool"}},
	} {
		if all.wrong(unfit, string(code)) == nil {
			t.Errorf("%s passes", unfit.expr)
		}
	}
}
