package countersign

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// minInterval is the minimum number of seconds between the end of a fetch and the
	// start of the next one, for unknown or stale keys.
	minInterval = 5
	// minIntervalWithoutKeys is the same minimum while there are no keys at all.
	minIntervalWithoutKeys = 1
	// lastGood is how many seconds the last good keys may be used after they were last
	// confirmed.
	lastGood = 24 * 60 * 60
	// unknownFor is for how many seconds a key identifier causes no fetch after a
	// fetch did not find it.
	unknownFor = 30
	// maxUnknown is the maximum number of unknown key identifiers that are remembered.
	maxUnknown = 256
	// maxWaiting is the maximum number of calls that wait for a fetch that another
	// call started.
	maxWaiting = 1024
	// fetchTimeout is the maximum time of a fetch.
	fetchTimeout = 5 * time.Second
	// waitTimeout is the maximum time that a call waits for a fetch. It is reached only
	// if a fetch does not obey its own timeout, such as a file on a network that hangs.
	waitTimeout = fetchTimeout + time.Second/2
)

var (
	errNotFetched = errors.New("nothing was fetched recently")
	errTimedOut   = errors.New("the key server did not respond in time")
	errBusy       = errors.New("too many calls wait for the key server already")
	errGivenUp    = errors.New("the request ended before there were keys")
)

// newKeySource makes the source that the options name. The options were checked.
func newKeySource(o options, now func() uint64) (keySource, error) {
	switch {
	case o.jwksURL != nil:
		loader, err := newHTTPLoader(*o.jwksURL, o.caFile)
		if err != nil {
			return nil, err
		}
		return &keyCache{loader: loader, now: now}, nil
	case o.jwksFile != nil:
		cache := &keyCache{loader: fileLoader(*o.jwksFile), now: now}
		read, err := cache.loader.load(context.Background(), "")
		if err != nil {
			return nil, fmt.Errorf("key set file: %w", err)
		}
		if len(read.keys.keys) == 0 {
			return nil, errors.New("the key set file has no usable key")
		}
		return cache, nil
	default:
		keys, err := parseKeySet(o.jwks)
		if err != nil {
			return nil, fmt.Errorf("the key set is not usable: %w", err)
		}
		if len(keys.keys) == 0 {
			return nil, errors.New("the key set has no usable key")
		}
		return fixedKeys{keys}, nil
	}
}

// fixedKeys are keys that never change.
type fixedKeys struct{ keys *keySet }

func (f fixedKeys) keysFor(context.Context, string) (*keySet, error) { return f.keys, nil }
func (f fixedKeys) fetchNow(context.Context) error                   { return nil }

// loader gets a key set from its place.
type loader interface {
	// load gets the key set. If entityTag is that of the current key set, it may
	// return a result without keys.
	load(ctx context.Context, entityTag string) (loadedKeys, error)
}

// loadedKeys is a key set, or the confirmation that it has not changed.
type loadedKeys struct {
	// keys is nil if the key set has not changed.
	keys      *keySet
	entityTag string
	// freshFor is in seconds.
	freshFor uint64
}

// keyCache fetches keys when they are needed and caches them. The place is fixed; a
// token cannot change it.
//
// A flood of unknown key identifiers causes at most one fetch per minInterval. Calls
// that need keys while a fetch runs wait for its outcome and share it, also if it
// failed. Near the end of their freshness keys are fetched in the background, so that
// requests of a busy service do not wait.
type keyCache struct {
	loader loader
	// now returns seconds since 1970.
	now func() uint64

	mutex   sync.Mutex
	cached  *cachedKeys
	running *fetch
	waiting int
	// attempted is false until the first fetch. lastAttempt is when a fetch was last
	// started or ended.
	attempted   bool
	lastAttempt uint64
	lastError   error
	// unknown has hashes of identifiers that were not found, and the time until which
	// they are remembered.
	unknown map[[sha256.Size]byte]uint64
}

type cachedKeys struct {
	keys                               *keySet
	entityTag                          string
	confirmedAt, refreshAt, freshUntil uint64
}

// fetch is a fetch that runs or has ended.
type fetch struct {
	done chan struct{}
	// err is the outcome. It is valid when done is closed.
	err error
}

func (c *keyCache) keysFor(ctx context.Context, keyID string) (*keySet, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	now := c.now()
	c.followClock(now)
	if keys := c.settled(keyID, now); keys != nil {
		c.refreshAhead(now)
		return keys, nil
	}
	if c.running == nil && !c.mayFetch(now) {
		return c.result(keyID, now, false)
	}
	running := c.running
	started := running == nil
	if started {
		running = c.start(now)
	}
	err := c.wait(ctx, running, started)
	if errors.Is(err, errBusy) || errors.Is(err, errGivenUp) {
		return nil, keysUnavailable(err)
	}
	// Another error is recorded. The last good keys may still be usable. The response
	// to a fetch of another call may be older than this call: only a fetch that this
	// call started shows that the key is not published.
	return c.result(keyID, c.now(), started && err == nil)
}

func (c *keyCache) fetchNow(ctx context.Context) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	running := c.running
	started := running == nil
	if started {
		running = c.start(c.now())
	}
	if err := c.wait(ctx, running, started); err != nil {
		return keysUnavailable(err)
	}
	return nil
}

// settled returns the keys if no fetch is needed for keyID.
func (c *keyCache) settled(keyID string, now uint64) *keySet {
	cached := c.usable(now)
	if cached == nil {
		return nil
	}
	known, fresh := cached.keys.has(keyID), now < cached.freshUntil
	switch {
	case known && fresh:
	case known && c.running != nil:
		// No call waits for another call's fetch while the old keys may be used,
		// because the server may be slow.
	case !known && fresh && c.isUnknown(keyID, now):
	default:
		return nil
	}
	return cached.keys
}

// refreshAhead starts a fetch if the freshness of the keys ends soon.
func (c *keyCache) refreshAhead(now uint64) {
	if c.running == nil && c.cached != nil && now >= c.cached.refreshAt && c.mayFetch(now) {
		c.start(now)
	}
}

func (c *keyCache) mayFetch(now uint64) bool {
	interval := uint64(minInterval)
	if c.usable(now) == nil {
		interval = minIntervalWithoutKeys
	}
	// If the clock was set to an earlier time, fetching must not stop.
	return !c.attempted || max(now, c.lastAttempt)-min(now, c.lastAttempt) >= interval
}

// start starts a fetch. It does not depend on the request that needs it: the fetch
// continues if the request is cancelled.
func (c *keyCache) start(now uint64) *fetch {
	started := &fetch{done: make(chan struct{})}
	c.running, c.attempted, c.lastAttempt = started, true, now
	entityTag := ""
	if c.cached != nil {
		entityTag = c.cached.entityTag
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		loaded, err := c.loader.load(ctx, entityTag)
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.end(started, loaded, err)
	}()
	return started
}

// end records the outcome of a fetch, unless it was given up: a later one may have
// stored newer keys.
func (c *keyCache) end(ended *fetch, loaded loadedKeys, err error) {
	if c.running != ended {
		return
	}
	now := c.now()
	// The interval begins when the fetch ends. Otherwise the next call could fetch
	// again at once after a slow failure.
	c.running, c.lastAttempt = nil, now
	switch {
	case err != nil:
	case loaded.keys != nil:
		c.unknown = nil
		c.cached = &cachedKeys{keys: loaded.keys, entityTag: loaded.entityTag}
		c.cached.confirm(now, loaded.freshFor)
	case c.cached != nil:
		c.cached.confirm(now, loaded.freshFor)
	default:
		err = statusError(304)
	}
	c.lastError, ended.err = err, err
	close(ended.done)
}

func (k *cachedKeys) confirm(now, freshFor uint64) {
	k.confirmedAt, k.refreshAt, k.freshUntil = now, now+freshFor-freshFor/5, now+freshFor
}

// wait waits for a fetch and returns its outcome. The lock is released meanwhile. A
// call that did not start the fetch is counted.
func (c *keyCache) wait(ctx context.Context, running *fetch, started bool) error {
	if !started {
		if c.waiting >= maxWaiting {
			return errBusy
		}
		c.waiting++
		defer func() { c.waiting-- }()
	}
	c.mutex.Unlock()
	timer := time.NewTimer(waitTimeout)
	defer timer.Stop()
	var err error
	select {
	case <-running.done:
	case <-ctx.Done():
		err = errGivenUp
	case <-timer.C:
		err = errTimedOut
	}
	c.mutex.Lock()
	if errors.Is(err, errTimedOut) {
		// The next call can then start another fetch.
		c.end(running, loadedKeys{}, errTimedOut)
	}
	if err == nil {
		err = running.err
	}
	return err
}

// result returns the keys, or the error, of a call that fetches no more. fetched: the
// keys were fetched after the call began.
func (c *keyCache) result(keyID string, now uint64, fetched bool) (*keySet, error) {
	cached := c.usable(now)
	if cached == nil {
		return nil, c.unavailable()
	}
	if !cached.keys.has(keyID) {
		if now >= cached.freshUntil {
			// The key may be newer than the cached keys.
			return nil, c.unavailable()
		}
		if fetched {
			c.rememberUnknown(keyID, now)
		}
	}
	return cached.keys, nil
}

// followClock counts the age of the keys from now if the clock was set to an earlier
// time. Otherwise keys that were fetched while the clock was ahead would stay fresh
// until it reaches that time again.
func (c *keyCache) followClock(now uint64) {
	if c.cached != nil && now < c.cached.confirmedAt {
		c.cached.confirm(now, c.cached.freshUntil-c.cached.confirmedAt)
	}
}

func (c *keyCache) usable(now uint64) *cachedKeys {
	if c.cached == nil || now >= c.cached.confirmedAt+lastGood {
		return nil
	}
	return c.cached
}

func (c *keyCache) unavailable() error {
	if c.lastError != nil {
		return keysUnavailable(c.lastError)
	}
	return keysUnavailable(errNotFetched)
}

func (c *keyCache) isUnknown(keyID string, now uint64) bool {
	until, exists := c.unknown[sha256.Sum256([]byte(keyID))]
	return exists && isRemembered(until, now)
}

func (c *keyCache) rememberUnknown(keyID string, now uint64) {
	for id, until := range c.unknown {
		if !isRemembered(until, now) {
			delete(c.unknown, id)
		}
	}
	// If the table is full, the minimum interval still limits the fetches.
	if len(c.unknown) < maxUnknown {
		if c.unknown == nil {
			c.unknown = make(map[[sha256.Size]byte]uint64)
		}
		c.unknown[sha256.Sum256([]byte(keyID))] = now + unknownFor
	}
}

// isRemembered returns whether an unknown identifier is remembered until the given
// time. A time that is too far ahead was set before the clock was set back.
func isRemembered(until, now uint64) bool { return now < until && until-now <= unknownFor }

// keysUnavailable makes the error of a verification. The detail is for the caller: it
// has no address and no error of the system.
func keysUnavailable(err error) error {
	detail := errors.New("they cannot be fetched")
	var safe fetchError
	for _, known := range []error{errNotFetched, errTimedOut, errBusy, errGivenUp} {
		if errors.Is(err, known) {
			detail = known
		}
	}
	if errors.As(err, &safe) {
		detail = safe
	}
	return refuseWith(CodeKeysUnavailable, "the gateway's keys are not available: "+detail.Error(), err)
}
