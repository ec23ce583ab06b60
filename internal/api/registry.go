package api

import (
	"encoding/json"
	"errors"
	"net/http"
)

func (s *Server) listTools(w http.ResponseWriter, _ *http.Request, _ *Key) { s.entries(w, ToolEntry) }
func (s *Server) listPolicies(w http.ResponseWriter, _ *http.Request, _ *Key) {
	s.entries(w, PolicyEntry)
}

func (s *Server) listKeys(w http.ResponseWriter, _ *http.Request, _ *Key) { s.entries(w, KeyEntry) }

func (s *Server) entries(w http.ResponseWriter, kind Kind) {
	if s.Registry == nil {
		missing(w, "tools and policies")
		return
	}
	list := s.Registry.Tools
	switch kind {
	case PolicyEntry:
		list = s.Registry.Policies
	case KeyEntry:
		list = s.Registry.Keys
	}
	entries := list()
	if entries == nil {
		entries = []Entry{}
	}
	answer(w, http.StatusOK, entries)
}

func (s *Server) putTool(w http.ResponseWriter, r *http.Request, by *Key) { s.put(w, r, by, ToolEntry) }
func (s *Server) putPolicy(w http.ResponseWriter, r *http.Request, by *Key) {
	s.put(w, r, by, PolicyEntry)
}

func (s *Server) putKey(w http.ResponseWriter, r *http.Request, by *Key) { s.put(w, r, by, KeyEntry) }

// put takes an entry in the words of the configuration file.
func (s *Server) put(w http.ResponseWriter, r *http.Request, by *Key, kind Kind) {
	var spec json.RawMessage
	if s.Registry == nil {
		missing(w, "tools and policies")
		return
	}
	if !read(w, r, &spec) {
		return
	}
	entry, err := s.Registry.Put(r.Context(), kind, spec, by.Name)
	if err != nil {
		s.refuseEntry(w, err)
		return
	}
	answer(w, http.StatusOK, entry)
}

func (s *Server) deleteTool(w http.ResponseWriter, r *http.Request, by *Key) {
	s.remove(w, r, by, ToolEntry, r.PathValue("name"))
}

func (s *Server) deletePolicy(w http.ResponseWriter, r *http.Request, by *Key) {
	s.remove(w, r, by, PolicyEntry, r.PathValue("agent"))
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request, by *Key) {
	s.remove(w, r, by, KeyEntry, r.PathValue("name"))
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request, by *Key, kind Kind, name string) {
	if s.Registry == nil {
		missing(w, "tools and policies")
		return
	}
	if err := s.Registry.Delete(r.Context(), kind, name, or(r.URL.Query().Get("scope"), "global"), by.Name); err != nil {
		s.refuseEntry(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"ok": true, "deleted": name})
}

func (s *Server) refuseEntry(w http.ResponseWriter, err error) {
	if invalid := new(Invalid); errors.As(err, &invalid) {
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_entry", invalid.Message})
	} else if errors.Is(err, ErrConflict) {
		fail(w, http.StatusConflict, problem{"conflict", err.Error() + "; look at it again, then repeat the change"})
	} else if owned := new(Owned); errors.As(err, &owned) {
		fail(w, http.StatusConflict, problem{"owned_by_file", owned.Message})
	} else if errors.Is(err, ErrNotFound) {
		fail(w, http.StatusNotFound, problem{"not_found", "there is no such entry, or the configuration file owns it"})
	} else {
		s.broken(w, "change of a tool, policy or key", err)
	}
}
