package govern

// RefuseEarly refuses a request of which the head alone decides that it is refused, while its body is still to come:
// by the kill switch, an unknown tool, the lists. The refusal and its record are those that Govern would leave. nil
// means that nothing was decided and nothing recorded, and that the request goes to Govern when it is whole.
func (g *Governor) RefuseEarly(r *Request) (reply *Reply) {
	p := g.open(r)
	defer func() {
		x := recover()
		if reply == nil && x == nil {
			g.running.Add(-1)
			*p = passage{}
			passages.Put(p)
			return
		}
		reply = p.close(reply, x)
	}()
	if reply := p.identify(); reply != nil || p.tool == nil {
		return reply
	}
	return p.decide()
}
