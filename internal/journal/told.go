package journal

// ToldHead reads the fact of a KindDropped entry: the head that the journal had where it was cut. What was dropped
// can no longer be read, but that it ended so is chained.
func ToldHead(fact []byte) (Head, bool) {
	d, ok := parseDropped(fact)
	return Head{Seq: d.last, Chain: d.chain}, ok
}
