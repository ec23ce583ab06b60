package api

// Description is the OpenAPI document, for tests of this package from outside.
var Description = description

// SmallBody is smallBody.
const SmallBody = smallBody

// LentToBodies is how much room large bodies have taken.
func (s *Server) LentToBodies() int64 { return s.bodies.large.Lent() }
