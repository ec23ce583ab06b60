package activity

// Told says how far a sidecar has told what it did: up to the sequence number Seq of its journal Source.
type Told struct {
	Tenant string `json:"t"`
	Source string `json:"s"`
	Seq    uint64 `json:"n"`
}

// teller is one sidecar's journal.
type teller struct{ tenant, source string }

// maxTellers bounds the journals that are remembered.
const maxTellers = 10_000

// Item is one decision that a sidecar tells of: an event and, where it belongs to a run, a line of its timeline.
type Item struct {
	Seq   uint64
	Event Event
	Line  *Line
}

// Hear takes in what a sidecar tells, in its order, once it is durable. What it has told before is known already and
// changes nothing. It returns how far it has told now.
func (b *Book) Hear(tenant, source string, items []Item) (uint64, error) {
	b.hear.Lock()
	defer b.hear.Unlock()
	from := teller{tenant, source}
	f := fact{Told: &Told{tenant, source, b.heard(from)}}
	for _, item := range items {
		if item.Seq <= f.Told.Seq {
			continue
		}
		f.Told.Seq = item.Seq
		f.Events = append(f.Events, item.Event)
		if item.Line != nil {
			f.Lines = append(f.Lines, item.Line)
		}
	}
	if len(f.Events) == 0 {
		return f.Told.Seq, nil
	}
	b.number(f.Lines)
	if err := b.write(encoded(f), true); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keepTold(&f)
	return f.Told.Seq, nil
}

func (b *Book) heard(from teller) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told[from]
}

// number gives lines their ids.
func (b *Book) number(lines []*Line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range lines {
		l.ID = b.next
		b.next++
	}
}

// keepTold takes in a fact of Told. The caller holds mu.
func (b *Book) keepTold(f *fact) {
	from := teller{f.Told.Tenant, f.Told.Source}
	if _, known := b.told[from]; !known && len(b.told) >= maxTellers {
		for old := range b.told { // any: who is forgotten and tells again is listed twice
			delete(b.told, old)
			break
		}
	}
	b.told[from] = max(b.told[from], f.Told.Seq)
	for _, e := range f.Events {
		b.keepEvent(e)
	}
	for _, l := range f.Lines {
		b.next = max(b.next, l.ID+1)
		b.keepLine(l)
	}
}
