package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
)

// useKeys makes the keys of file and store what the next requests are judged by, and the key by which commands reach
// this sidecar, unless the configuration has one.
func (s *sidecar) useKeys(cfg *config.Config) error {
	shared := s.sharedKeys()
	hold := shared
	if !slices.ContainsFunc(cfg.API.Keys, isOperator) {
		key, path, err := config.EnsureOperatorKey(cfg.Store.Embedded.Dir)
		if err != nil {
			return err
		}
		s.keyPath = path
		hold = append(shared[:len(shared):len(shared)], api.Shared(api.KeyConfig{Name: "operator", Key: key})) // no other of its name stands above it
	}
	ring, err := api.NewKeyring(cfg.API.Keys, hold...)
	if err != nil {
		return err
	}
	s.api.UseKeys(ring)
	s.keys = shared
	for _, k := range cfg.API.Keys {
		if isOperator(k) && slices.ContainsFunc(shared, func(x api.SharedKey) bool { return x.Name == k.Name && (x.Revoked || x.Digest != api.Shared(k).Digest) }) {
			s.log.Warn("an operator's key of the file does not hold: another one of its name is in the store, or it was revoked there", "key", k.Name)
		}
	}
	return nil
}

func isOperator(k api.KeyConfig) bool { return k.Role == string(api.Operator) }

// refreshKeys takes in what of the store's keys has changed. Where nothing has, nobody's rate begins anew.
func (s *sidecar) refreshKeys() error {
	if slices.Equal(s.keys, s.sharedKeys()) {
		return nil
	}
	return s.useKeys(s.cfg.Load())
}

// sharedKeys are the operators' keys of the store. One that cannot be read lets nobody in.
func (s *sidecar) sharedKeys() (keys []api.SharedKey) {
	for _, e := range s.store.Entries() {
		if e.Kind != store.KeyEntry {
			continue
		}
		var k api.SharedKey
		if json.Unmarshal(e.Value, &k) != nil {
			s.log.Error("an operator's key in the store cannot be read, and lets nobody in", "key", e.Name)
			k = api.SharedKey{Revoked: true}
		}
		k.Name = e.Name
		keys = append(keys, k)
	}
	return keys
}

// Keys are the operators' keys of file and store, revoked ones included.
func (b registry) Keys() []api.Entry {
	var list []api.Entry
	shared := b.s.sharedKeys()
	add := func(k api.SharedKey, source string) {
		k.Digest = ""
		spec, _ := json.Marshal(k)
		list = append(list, api.Entry{Name: k.Name, Source: source, Spec: spec})
	}
	for _, k := range shared {
		add(k, "api")
	}
	for _, k := range b.s.cfg.Load().API.Keys {
		if isOperator(k) && !slices.ContainsFunc(shared, func(x api.SharedKey) bool { return x.Name == k.Name }) {
			add(api.Shared(k), "file")
		}
	}
	return list
}

// putKey shares an operator's key. Call it with editing held.
func (b registry) putKey(ctx context.Context, spec []byte, who string) (api.Entry, error) {
	c, err := config.ParseKey(spec)
	if err != nil {
		return api.Entry{}, &api.Invalid{Message: err.Error()}
	}
	k := api.Shared(c)
	if err := fresh(&k, b.s.sharedKeys()); err != nil {
		return api.Entry{}, err
	}
	if err := b.holdKey(ctx, k, who); err != nil {
		return api.Entry{}, err
	}
	k.Digest = ""
	shown, err := json.Marshal(k)
	return api.Entry{Name: k.Name, Source: "api", Spec: shown}, err
}

// revokeKey has an operator's key let nobody in any more, also one of a file. Call it with editing held.
func (b registry) revokeKey(ctx context.Context, name, who string) error {
	if !slices.ContainsFunc(b.Keys(), func(e api.Entry) bool { return e.Name == name }) {
		return api.ErrNotFound
	}
	revoked := api.SharedKey{Name: name, Revoked: true}
	for _, k := range b.s.cfg.Load().API.Keys {
		if isOperator(k) && k.Name == name {
			revoked.Digest = api.Shared(k).Digest
		}
	}
	for _, k := range b.s.sharedKeys() {
		if k.Name == name && k.Digest != "" {
			revoked.Digest = k.Digest
		}
	}
	return b.holdKey(ctx, revoked, who)
}

// fresh refuses a key that was revoked: whoever applies an old file again would let its holder in.
func fresh(k *api.SharedKey, shared []api.SharedKey) error {
	for _, x := range shared {
		if x.Revoked && x.Digest == k.Digest {
			return &api.Invalid{Message: fmt.Sprintf("key %q was revoked, as %q; share another one", k.Name, x.Name)}
		}
	}
	return nil
}

// holdKey makes a key durable and what requests are judged by, unless nobody could operate this sidecar then.
func (b registry) holdKey(ctx context.Context, k api.SharedKey, who string) error {
	next := append(slices.DeleteFunc(b.s.sharedKeys(), func(x api.SharedKey) bool { return x.Name == k.Name }), k)
	if err := b.s.operable(next); err != nil {
		return err
	}
	value, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := b.s.store.Put(ctx, store.Entry{Kind: store.KeyEntry, Name: k.Name, Value: value, Source: "api"}, who); errors.Is(err, store.ErrMoved) {
		return api.ErrConflict
	} else if err != nil {
		return storeError(err)
	}
	what := "set"
	if k.Revoked {
		what = "revoked"
	}
	b.logChange(what, store.KeyEntry, k.Name, who)
	return b.s.refreshKeys()
}

// operable says whether an operator is left who can reach this sidecar.
func (s *sidecar) operable(shared []api.SharedKey) error {
	keys := s.cfg.Load().API.Keys
	if !slices.ContainsFunc(keys, isOperator) {
		return nil // it has made its own
	}
	ring, err := api.NewKeyring(keys, shared...)
	if err == nil && ring.Operators() == 0 {
		err = &api.Invalid{Message: "this is the last operator's key; share another one first"}
	}
	return err
}
