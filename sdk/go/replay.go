package countersign

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"sync"
	"time"
)

// ReplayStore remembers which assertions were used, so that each is accepted only
// once.
type ReplayStore interface {
	// Use records the use of an assertion. id identifies the assertion: 43 characters
	// of base64url. It must be remembered until expiry, and should also stay refused
	// if the clock is set back after that. now is the time of the verifier's clock.
	//
	// It returns [ErrReplayed] if the id is remembered, [ErrReplayExpired] if it
	// could have been forgotten, and any other error if the use cannot be recorded.
	// The request is then refused with [CodeReplayCacheFull] and status 503.
	Use(ctx context.Context, id string, expiry, now time.Time) error
}

var (
	// ErrReplayed means that the assertion was used before.
	ErrReplayed = errors.New("the assertion was used before")
	// ErrReplayExpired means that the assertion may have been used and forgotten.
	ErrReplayExpired = errors.New("the assertion expired before it was used")
	// ErrReplayStoreFull means that the store has as many assertions as it may have.
	ErrReplayStoreFull = errors.New("too many assertions are remembered")
)

func (v *AssertionVerifier) checkReplay(ctx context.Context, claims *assertion) error {
	if v.options.replayStore == nil || claims.jti == nil {
		return nil
	}
	expiry := unixTime(claims.exp + v.skew)
	err := v.options.replayStore.Use(ctx, v.replayID(*claims.jti), expiry, unixTime(v.now()))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrReplayed):
		return refuse(CodeReplayed)
	case errors.Is(err, ErrReplayExpired):
		return refuse(CodeExpired)
	case errors.Is(err, ErrReplayStoreFull):
		return refuse(CodeReplayCacheFull)
	default:
		return refuseWith(CodeReplayCacheFull,
			"used assertions cannot be remembered now; try again later", err)
	}
}

// replayID returns the identifier of an assertion in a store that several verifiers
// share. It is a hash, so that all identifiers have the same length.
func (v *AssertionVerifier) replayID(jti string) string {
	sum := sha256.New()
	for _, text := range []string{v.issuer, v.audience, jti} {
		part := sha256.Sum256([]byte(text))
		sum.Write(part[:])
	}
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

// MemoryReplayStore is a [ReplayStore] in the memory of this process. It is enough if
// the service has only one process.
//
// An entry that could still be replayed is never removed. If the clock is set back, an
// assertion that was used stays refused, and an unused one is refused if it expires no
// later than one that was already removed.
type MemoryReplayStore struct {
	capacity int
	mutex    sync.Mutex
	used     map[string]struct{}
	// byExpiry has the same entries; the first to expire is first.
	byExpiry entries
	// removedUntil is the latest expiry of all entries that were removed.
	removedUntil time.Time
}

// NewMemoryReplayStore makes a store that remembers at most capacity assertions. If it
// is full of valid ones, further assertions are refused with [CodeReplayCacheFull].
// Choose at least the number of requests in 40 s (lifetime and skew).
func NewMemoryReplayStore(capacity int) *MemoryReplayStore {
	return &MemoryReplayStore{capacity: capacity, used: make(map[string]struct{})}
}

// Use implements [ReplayStore].
func (s *MemoryReplayStore) Use(_ context.Context, id string, expiry, now time.Time) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for len(s.byExpiry) > 0 && !s.byExpiry[0].expiry.After(now) {
		removed := heap.Pop(&s.byExpiry).(entry)
		delete(s.used, removed.id)
		if removed.expiry.After(s.removedUntil) {
			s.removedUntil = removed.expiry
		}
	}
	if _, exists := s.used[id]; exists {
		return ErrReplayed
	}
	// This depends on what was removed, not on the latest time seen: after the clock
	// was ahead, new assertions are refused only if they cannot be distinguished from
	// removed ones.
	if !expiry.After(s.removedUntil) {
		return ErrReplayExpired
	}
	if len(s.used) >= s.capacity {
		return ErrReplayStoreFull
	}
	s.used[id] = struct{}{}
	heap.Push(&s.byExpiry, entry{id, expiry})
	return nil
}

type entry struct {
	id     string
	expiry time.Time
}

// entries is a heap.
type entries []entry

func (e entries) Len() int           { return len(e) }
func (e entries) Less(i, j int) bool { return e[i].expiry.Before(e[j].expiry) }
func (e entries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)        { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}
