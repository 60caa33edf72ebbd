// Package countersignredis remembers used assertions in Redis, so that all processes of
// a service accept each assertion only once.
//
//	client := redis.NewClient(&redis.Options{Addr: "redis.internal:6379"})
//	verifier, err := countersign.NewAssertionVerifier(issuer, audience,
//		countersign.WithJWKSURL(url), countersign.WithReplayStore(countersignredis.New(client)))
//
// If Redis does not respond, requests are refused with assertion-replay-cache-full and
// status 503: an assertion whose use cannot be recorded could be replayed.
//
// Redis must not remove entries early. Use maxmemory-policy noeviction. After a failover
// to a replica that lacks the last writes, their assertions can be replayed until they
// expire.
package countersignredis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	countersign "github.com/countersign/countersign/sdk/go"
)

const (
	// DefaultPrefix is the beginning of the keys in Redis.
	DefaultPrefix = "countersign:replay:"
	// DefaultTimeout is the maximum time that a verification waits for Redis.
	DefaultTimeout = time.Second
	// clockTolerance is how many seconds the clock of Redis may be ahead of the clock
	// of the service.
	clockTolerance = 60
	// keepLonger is how many seconds entries are kept after that.
	keepLonger = 300
)

// use records a use. The clock of Redis is the second opinion on the expiry: if the
// clock of the service is set back, an assertion whose entry was removed stays refused.
// Entries are kept longer than that, so that a small change of the clock of Redis does
// no harm.
var use = redis.NewScript(`
local now = tonumber(redis.call('TIME')[1])
local left = tonumber(ARGV[1]) - now
if left <= 0 then
  return 'expired'
end
if redis.call('SET', KEYS[1], '1', 'NX', 'EX', left + tonumber(ARGV[2])) then
  return 'new'
end
return 'used'
`)

// Store is a countersign.ReplayStore in Redis 5 or later.
type Store struct {
	client  redis.Scripter
	prefix  string
	timeout time.Duration
}

var _ countersign.ReplayStore = (*Store)(nil)

// Option is an optional setting of a [Store].
type Option func(*Store)

// WithPrefix sets the beginning of the keys in Redis.
func WithPrefix(prefix string) Option { return func(s *Store) { s.prefix = prefix } }

// WithTimeout sets the maximum time that a verification waits for Redis.
func WithTimeout(timeout time.Duration) Option { return func(s *Store) { s.timeout = timeout } }

// New makes a store with a client, a cluster client or a ring of go-redis.
func New(client redis.Scripter, options ...Option) *Store {
	store := &Store{client: client, prefix: DefaultPrefix, timeout: DefaultTimeout}
	for _, option := range options {
		option(store)
	}
	return store
}

// Use implements countersign.ReplayStore.
func (s *Store) Use(ctx context.Context, id string, expiry, _ time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.record(ctx, id, expiry) }()
	// The client obeys the context only with ContextTimeoutEnabled, and not while it
	// connects.
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("redis: %w", ctx.Err())
	}
}

func (s *Store) record(ctx context.Context, id string, expiry time.Time) error {
	result, err := use.Run(ctx, s.client, []string{s.prefix + id}, expiry.Unix()+clockTolerance, keepLonger).Text()
	switch {
	case err != nil:
		return fmt.Errorf("redis: %w", err)
	case result == "new":
		return nil
	case result == "used":
		return countersign.ErrReplayed
	case result == "expired":
		return countersign.ErrReplayExpired
	default:
		return errors.New("redis: unexpected result of the script")
	}
}
