package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
)

// backend is where claims live, and what stands beside them: this sidecar's own store, or Redis with its own journal.
type backend interface {
	dedup.Store
	lease.Store

	Unknowns() []store.UnknownCall
	Open() []store.UnknownCall
	UnknownCount() int
	Resolve(ctx context.Context, r *dedup.Resolution, shown string) error

	Disabled(agent string) (store.Switch, bool)
	Switches() []store.Switch
	Disable(ctx context.Context, agent, reason, who string) (store.Switch, error)
	Enable(ctx context.Context, agent, reason, who string) (store.Switch, error)
	OnSwitch(func(agent string, disabled bool))

	Entries() []store.Entry
	LoadFile(ctx context.Context, entries []store.Entry) error
	Put(ctx context.Context, e store.Entry, who string) error
	Delete(ctx context.Context, kind store.EntryKind, name, who string) error
	OnEntries(func())

	Record(ctx context.Context, record []byte) error
	Change(*audit.Change) error
	Scarce() bool
	Journal() *journal.Journal
	Book() *activity.Book

	Secret() [32]byte
	Created() bool
	Err() error
	Guarantee() string
	Stats() store.Stats
	Usage(tenant, agent, tool string) store.Usage
	Close(ctx context.Context) error
}

// openStore opens the store and makes, once, the keys beside it.
func (s *sidecar) openStore(cfg *config.Config) (err error) {
	opt := store.Options{Config: cfg.Store.Embedded, Waiters: cfg.Limits.Waiters, AnswerBytes: int64(cfg.Limits.AnswerBytes), Log: s.log}
	if cfg.Store.Kind == "redis" {
		err = s.openRedis(cfg, opt)
	} else {
		s.store, err = openEmbedded(opt)
	}
	if err != nil {
		return err
	}
	s.useMask()
	if cfg.Store.Kind != "redis" || cfg.Store.SealKey != "" {
		s.seal, err = store.NewSeal(cfg.Store.SealKey, cfg.Store.Embedded.Dir)
	}
	if err == nil {
		_, err = audit.MakeKey(cfg.Store.Embedded.Dir)
	}
	if err != nil {
		return errors.Join(err, s.store.Close(context.Background()))
	}
	s.metrics.StoreCreated(s.store.Created())
	for _, sw := range s.store.Switches() {
		s.metrics.KillSwitch(sw.Agent, sw.Disabled)
	}
	return nil
}

// useMask has keys shown under the store's secret.
func (s *sidecar) useMask() {
	secret := s.store.Secret()
	s.mask.Store(hmac.NewMask(secret[:]))
}

// redisCame has hold what is shared in a Redis that was away at the start.
func (s *sidecar) redisCame() {
	s.useMask()
	s.editing.Lock()
	err := s.refreshSnapshot()
	s.editing.Unlock()
	if err != nil {
		s.log.Error("the policies and tools in Redis cannot hold here; those of the start do", "error", err.Error())
	}
	s.api.ResumeJobs()
}

// openEmbedded keeps a nil store out of the interface.
func openEmbedded(opt store.Options) (backend, error) {
	e, err := store.OpenEmbedded(opt)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// openRedis opens the store that several sidecars share, and has it tell what is measured of it.
func (s *sidecar) openRedis(cfg *config.Config, opt store.Options) error {
	r, err := store.OpenRedis(s.ctx, store.RedisOptions{Options: opt, Redis: cfg.Store.Redis})
	if err != nil {
		return err
	}
	s.store, s.redis = r, r
	r.OnDoubleExecution(s.metrics.DoubleExecution)
	r.Notify(store.SharedEvents{
		Read:    func() { s.metrics.Current(time.Now()) },
		Failed:  func(error) { s.metrics.StoreError("read") },
		Arrived: s.metrics.Propagated,
		Refused: s.metrics.RollbackRefused,
		Dropped: s.metrics.StreamDropped,
	})
	s.elsewhere = make(chan struct{}, 1)
	r.OnEntries(func() {
		select {
		case s.elsewhere <- struct{}{}:
		default:
		}
	})
	return nil
}

// followEntries has what other sidecars change hold here, until the sidecar ends.
func (s *sidecar) followEntries() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.elsewhere:
		}
		s.editing.Lock()
		err := s.refreshSnapshot()
		s.editing.Unlock()
		if err != nil {
			s.log.Error("policies or tools were changed by another sidecar and cannot hold here; the former ones do", "error", err.Error())
		}
	}
}

// meter counts requests, and gives each record to the stream that sidecars share.
type meter struct{ *sidecar }

func (m meter) Call(rec *audit.Record, overhead, upstream time.Duration) {
	m.metrics.Call(rec, overhead, upstream)
	if m.redis != nil {
		m.redis.Publish(rec.AppendExport(make([]byte, 0, 1024)))
	}
}

func (m meter) FailOpen(check string) { m.metrics.FailOpen(check) }
func (m meter) StoreError(op string)  { m.metrics.StoreError(op) }
func (m meter) DoubleExecution()      { m.metrics.DoubleExecution() }

// errNoSeal says why a secret cannot be set through the api.
var errNoSeal = fmt.Errorf("store.seal_key is not set: with store.kind redis secrets of tools are sealed with it, so that every sidecar can read them and Redis cannot; configure the same key on every sidecar, or keep the secret in the configuration file")
