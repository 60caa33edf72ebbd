package countersign

import (
	"errors"
	"strings"
	"time"
)

const (
	// DefaultSkew is the difference of clocks that is allowed by default.
	DefaultSkew = 10 * time.Second
	// MaxSkew is the largest difference of clocks that can be allowed.
	MaxSkew = 30 * time.Second
	// DefaultMaxBody is the maximum length of bodies that are compared by default.
	DefaultMaxBody = 1 << 20
)

// Option is an optional setting of an [AssertionVerifier].
type Option func(*options)

type options struct {
	jwksURL, jwksFile  *string
	jwks               []byte
	caFile             string
	authority          *string
	pathPrefix         string
	skew               time.Duration
	replayStore        ReplayStore
	unverifiedPaths    []string
	allowCallerBinding bool
	requireBodyBinding bool
	maxBody            int64
	now                func() time.Time
}

// WithJWKSURL sets the URL of the gateway's key set, usually
// https://GATEWAY/.well-known/jwks.json. It must be https, or http with a loopback
// address. Keys are fetched when they are first needed; see also
// [AssertionVerifier.FetchKeys].
func WithJWKSURL(url string) Option { return func(o *options) { o.jwksURL = &url } }

// WithJWKSFile sets a file with the gateway's key set. It is read again when a
// minute has passed or a key is unknown, so that keys can be rotated.
func WithJWKSFile(path string) Option { return func(o *options) { o.jwksFile = &path } }

// WithJWKS sets the gateway's keys, as the JSON text of a JWK set. They never change.
func WithJWKS(keySet []byte) Option {
	return func(o *options) { o.jwks = append([]byte{}, keySet...) }
}

// WithCAFile sets a PEM file with the root certificates for fetching keys, instead of
// the roots of the system. It is needed if the gateway's certificate is from a
// private authority.
func WithCAFile(path string) Option { return func(o *options) { o.caFile = path } }

// WithAuthority sets the host to which the gateway sends requests: name or name:port.
// It is needed if another proxy between gateway and service changes Host. The host of
// the request is then ignored.
func WithAuthority(authority string) Option {
	return func(o *options) { o.authority = &authority }
}

// WithPathPrefix sets the prefix that another proxy between gateway and service
// removes from the path: /api if the gateway sends /api/orders and this service
// receives /orders. It is not needed for http.StripPrefix inside the service.
func WithPathPrefix(prefix string) Option { return func(o *options) { o.pathPrefix = prefix } }

// WithSkew sets the allowed difference between the gateway's clock and this one: at
// most [MaxSkew], by default [DefaultSkew]. Fractions of a second are ignored.
func WithSkew(skew time.Duration) Option { return func(o *options) { o.skew = skew } }

// WithReplayStore accepts each request-bound assertion only once.
func WithReplayStore(store ReplayStore) Option {
	return func(o *options) { o.replayStore = store }
}

// WithUnverifiedPaths lets GET and HEAD requests to these paths pass without an
// assertion: for health probes. Paths are compared exactly as received, undecoded and
// without the query. The handler sees no caller, even if there is an assertion.
func WithUnverifiedPaths(paths ...string) Option {
	return func(o *options) { o.unverifiedPaths = append(o.unverifiedPaths, paths...) }
}

// AllowCallerBinding also accepts assertions that are bound to the caller only, from
// routes with binding = "caller". If such an assertion is stolen, it can be used for
// any request to this service until it expires.
func AllowCallerBinding() Option { return func(o *options) { o.allowCallerBinding = true } }

// RequireBodyBinding accepts only assertions with htb, and compares the body. The
// middleware reads the whole body before the handler is called, see [WithMaxBody].
func RequireBodyBinding() Option { return func(o *options) { o.requireBodyBinding = true } }

// WithMaxBody sets the maximum length of bodies that the middleware reads for
// [RequireBodyBinding], in bytes. Requests with longer bodies are refused with
// [CodeBodyNotBound]. By default it is [DefaultMaxBody].
func WithMaxBody(bytes int64) Option { return func(o *options) { o.maxBody = bytes } }

// WithClock replaces the clock of the system. It is for tests.
func WithClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

func (o *options) check() error {
	sources := 0
	for _, given := range []bool{o.jwksURL != nil, o.jwksFile != nil, o.jwks != nil} {
		if given {
			sources++
		}
	}
	switch {
	case sources == 0:
		return errors.New("no keys: use WithJWKSURL, WithJWKSFile or WithJWKS")
	case sources > 1:
		return errors.New("keys from several places: use only one of WithJWKSURL, WithJWKSFile and WithJWKS")
	case o.caFile != "" && o.jwksURL == nil:
		return errors.New("WithCAFile is only for WithJWKSURL")
	case o.skew < 0:
		return errors.New("the skew is negative")
	case o.skew > MaxSkew:
		return errors.New("a skew above 30 s would prolong every assertion")
	case o.authority != nil && (*o.authority == "" || strings.ContainsAny(*o.authority, "/?#@ ")):
		return errors.New("the authority must be as in a Host field: name or name:port")
	case o.maxBody < 0:
		return errors.New("the maximum length of bodies is negative")
	case o.now == nil:
		return errors.New("the clock is nil")
	}
	if p := o.pathPrefix; p != "" &&
		(!strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.ContainsAny(p, "?#")) {
		return errors.New("the path prefix must begin with / and not end with it")
	}
	for _, path := range o.unverifiedPaths {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#") {
			return errors.New("an unverified path must begin with / and have no query")
		}
	}
	if store, ok := o.replayStore.(*MemoryReplayStore); ok && (store == nil || store.capacity < 1) {
		return errors.New("a replay store needs a capacity of at least 1")
	}
	return nil
}
