package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// What is wanted of the throughput.
const (
	wantFirst  = 0.40 // of the bare proxy, at 64 callers
	wantReplay = 2.0  // times nginx
)

// table is rows of plain text in columns.
type table struct {
	w   *tabwriter.Writer
	out io.Writer
}

func newTable(out io.Writer, title string, head ...string) *table {
	fmt.Fprintln(out, title)
	t := &table{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0), out}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) { fmt.Fprintf(t.w, "  %s\n", strings.Join(cells, "\t")) }

func (t *table) flush() {
	t.w.Flush()
	fmt.Fprintln(t.out)
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "NOT MET"
}

// figure is a number with the digits that mean something, a dash where there is none.
func figure(x float64, digits int) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.*f", digits, x)
}

func (r *results) print(out io.Writer) {
	rounds := len(r.samples[r.order[0].name][r.levels[0]])
	t := newTable(out, fmt.Sprintf("throughput, %d B in and %d B out, medians of %d interleaved rounds; CPU is of the process under test", requestBytes, answerBytes, rounds),
		"callers", "", "calls/s", "of the bare proxy", "of nginx", "CPU s per 100,000", "of the bare proxy")
	for _, callers := range r.levels {
		for _, c := range r.order {
			t.row(fmt.Sprint(callers), c.name, figure(r.median(c.name, callers, throughput), 0),
				figure(median(r.ratios(c.name, nameBare, callers, throughput)), 2),
				figure(median(r.ratios(c.name, nameNginx, callers, throughput)), 2),
				figure(r.median(c.name, callers, cpuTime), 2),
				figure(median(r.ratios(c.name, nameBare, callers, cpuTime)), 2))
		}
	}
	t.flush()
	if n := r.shed(nameRedis); n > 0 {
		fmt.Fprintf(out, "  %q refused %d calls with 503 and answered %d: this machine had too little time for Redis\n\n", nameRedis, n, r.calls(nameRedis))
	}
}

// printWanted shows what is wanted beside what was seen. It judges and asserts nothing: a shared machine bends it.
func (r *results) printWanted(out io.Writer) {
	t := newTable(out, "throughput wanted", "", "seen (lowest to highest round)", "wanted", "")
	t.wanted("durable first calls at 64 callers, of the bare proxy", r.ratios(nameFirst, nameBare, 64, throughput), wantFirst)
	for _, callers := range r.levels {
		t.wanted(fmt.Sprintf("replays at %d callers, of nginx", callers), r.ratios(nameReplay, nameNginx, callers, throughput), wantReplay)
	}
	t.flush()
}

func (t *table) wanted(what string, ratios []float64, want float64) {
	if len(ratios) == 0 {
		t.row(what, "not measured", fmt.Sprintf("≥ %.2f", want), "")
		return
	}
	t.row(what, fmt.Sprintf("%.2f (%.2f to %.2f)", median(ratios), ratios[0], ratios[len(ratios)-1]), fmt.Sprintf("≥ %.2f", want), verdict(median(ratios) >= want))
}
