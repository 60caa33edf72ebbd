package countersign_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

// keyServer is a key server whose responses tests can change.
type keyServer struct {
	*httptest.Server
	mutex    sync.Mutex
	respond  http.HandlerFunc
	held     chan struct{}
	requests int
	arrived  *sync.Cond
}

func newKeyServer(t *testing.T) *keyServer {
	t.Helper()
	server := &keyServer{respond: func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}}
	server.arrived = sync.NewCond(&server.mutex)
	server.Server = httptest.NewServer(server)
	t.Cleanup(func() {
		server.release()
		server.Close()
	})
	return server
}

func (s *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mutex.Lock()
	s.requests++
	respond, held := s.respond, s.held
	s.arrived.Broadcast()
	s.mutex.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}
	respond(w, r)
}

func (s *keyServer) respondWith(respond http.HandlerFunc) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.respond = respond
}

func (s *keyServer) publish(keys ...*signingKey) { s.publishWith("max-age=300", keys...) }

func (s *keyServer) publishWith(cacheControl string, keys ...*signingKey) {
	body := keySet(keys...)
	s.respondWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", cacheControl)
		_, _ = w.Write(body)
	})
}

func (s *keyServer) fail() {
	s.respondWith(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
}

// hold sends no response until release.
func (s *keyServer) hold() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.held = make(chan struct{})
}

func (s *keyServer) release() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
}

func (s *keyServer) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.requests
}

// received waits until the server has this number of requests.
func (s *keyServer) received(count int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for s.requests < count {
		s.arrived.Wait()
	}
}

func (s *keyServer) verifier(t *testing.T, clock *testClock) *countersign.AssertionVerifier {
	t.Helper()
	return newVerifier(t, clock.option(), countersign.WithJWKSURL(s.URL+"/keys"))
}

// token signs an assertion about request at the time of the clock.
func token(key *signingKey, clock *testClock) string {
	now := clock.now().Unix()
	return key.assertion(with(requestClaims(), "iat", now, "exp", now+30))
}

func verifyNow(t *testing.T, verifier *countersign.AssertionVerifier, key *signingKey, clock *testClock) string {
	t.Helper()
	return verifyCode(t, verifier, token(key, clock), request())
}

func expectRequests(t *testing.T, server *keyServer, want int) {
	t.Helper()
	if got := server.count(); got != want {
		t.Errorf("%d requests for keys, want %d", got, want)
	}
}

func TestKeysAreFetchedWhenNeededAndKept(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	verifier := server.verifier(t, clock)
	expectRequests(t, server, 0)
	for range 20 {
		expectCode(t, verifyNow(t, verifier, key, clock), "")
	}
	expectRequests(t, server, 1)
	clock.advance(239)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	expectRequests(t, server, 1)
	// Stale keys are fetched before they are used.
	clock.advance(61)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	expectRequests(t, server, 2)
}

func TestKeysCanBeFetchedAtTheStart(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	verifier := server.verifier(t, clock)
	var refused *countersign.AssertionRefused
	if err := verifier.FetchKeys(t.Context()); !errors.As(err, &refused) || refused.Status != 503 ||
		refused.Code != countersign.CodeKeysUnavailable || !strings.Contains(refused.Detail, "500") {
		t.Error(err)
	}
	server.publish(key)
	if err := verifier.FetchKeys(t.Context()); err != nil {
		t.Error(err)
	}
	expectRequests(t, server, 2)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	expectRequests(t, server, 2)
}

func TestKeysAreRefreshedInTheBackground(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	clock.advance(240)
	server.hold()
	// The request does not wait for the fetch that it starts.
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	server.received(2)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	expectRequests(t, server, 2)
	server.release()
	if err := verifier.FetchKeys(t.Context()); err != nil {
		t.Error(err)
	}
	clock.advance(61)
	before := server.count()
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	expectRequests(t, server, before)
}

func TestRotationRefusesNothing(t *testing.T) {
	server, clock := newKeyServer(t), newClock()
	old, next := newES256(), newEdDSA()
	server.publish(old)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, old, clock), "")
	// The next key is published before it is used, and the old one stays for a while.
	server.publish(old, next)
	clock.advance(300)
	expectCode(t, verifyNow(t, verifier, old, clock), "")
	expectCode(t, verifyNow(t, verifier, next, clock), "")
	server.publish(next)
	clock.advance(300)
	expectCode(t, verifyNow(t, verifier, next, clock), "")
	// A key that was removed verifies nothing.
	expectCode(t, verifyNow(t, verifier, old, clock), countersign.CodeUnknownKey)
}

func TestUnknownKeyIsFetchedAtOnce(t *testing.T) {
	server, clock := newKeyServer(t), newClock()
	old, next := newES256(), newES256()
	server.publish(old)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, old, clock), "")
	server.publish(old, next)
	clock.advance(5)
	expectCode(t, verifyNow(t, verifier, next, clock), "")
	expectRequests(t, server, 2)
}

func TestFloodOfUnknownKeysCausesOneFetchPerInterval(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newEdDSA()
	server.publish(key)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	good := token(key, clock)
	unknown := make([]string, 10_000)
	for i := range unknown {
		unknown[i] = key.sign(text(with(key.header(), "kid", fmt.Sprint("unknown-", i))), "{}")
	}
	flood := func() {
		var group sync.WaitGroup
		for part := range 8 {
			group.Add(1)
			go func() {
				defer group.Done()
				for i := part; i < len(unknown); i += 8 {
					if _, err := verifier.Verify(context.Background(), unknown[i:i+1], request()); code(err) != countersign.CodeUnknownKey {
						t.Error(err)
						return
					}
				}
			}()
		}
		group.Wait()
	}
	flood()
	expectRequests(t, server, 1)
	clock.advance(5)
	flood()
	expectRequests(t, server, 2)
	expectCode(t, verifyCode(t, verifier, good, request()), "")
	// An identifier that was not found causes no fetch for 30 seconds.
	clock.advance(5)
	expectCode(t, verifyCode(t, verifier, unknown[0], request()), countersign.CodeUnknownKey)
	requests := server.count()
	clock.advance(5)
	expectCode(t, verifyCode(t, verifier, unknown[0], request()), countersign.CodeUnknownKey)
	expectRequests(t, server, requests)
	clock.advance(30)
	expectCode(t, verifyCode(t, verifier, unknown[0], request()), countersign.CodeUnknownKey)
	expectRequests(t, server, requests+1)
}

func TestLastGoodKeysAreUsedForADay(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	server.fail()
	clock.advance(24*3600 - 1)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	// A key that is unknown to stale keys may be newer.
	expectCode(t, verifyNow(t, verifier, newES256(), clock), countersign.CodeKeysUnavailable)
	clock.advance(1)
	expectCode(t, verifyNow(t, verifier, key, clock), countersign.CodeKeysUnavailable)
	server.publish(key)
	clock.advance(1)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
}

func TestClockThatIsSetBackDoesNotKeepKeysFresh(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	clock.advance(10 * 24 * 3600)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	clock.advance(-10 * 24 * 3600)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	clock.advance(300)
	server.publish(newES256())
	expectCode(t, verifyNow(t, verifier, key, clock), countersign.CodeUnknownKey)
}

func TestCacheControlIsRespected(t *testing.T) {
	key := newES256()
	for header, seconds := range map[string]int64{
		"max-age=600": 600, "public, max-age=120": 120, "no-store": 60, "no-cache, max-age=600": 60,
		"max-age=1": 60, "max-age=999999999": 24 * 3600, "": 300, "max-age=x": 300,
	} {
		server, clock := newKeyServer(t), newClock()
		server.publishWith(header, key)
		verifier := server.verifier(t, clock)
		expectCode(t, verifyNow(t, verifier, key, clock), "")
		clock.advance(seconds - seconds/5 - 1)
		expectCode(t, verifyNow(t, verifier, key, clock), "")
		expectRequests(t, server, 1)
		clock.advance(seconds/5 + 1)
		expectCode(t, verifyNow(t, verifier, key, clock), "")
		expectRequests(t, server, 2)
	}
}

func TestUnchangedKeysAreConfirmed(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	notModified := 0
	server.respondWith(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			notModified++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(keySet(key))
	})
	verifier := server.verifier(t, clock)
	for range 3 {
		expectCode(t, verifyNow(t, verifier, key, clock), "")
		clock.advance(300)
	}
	if notModified != 2 {
		t.Error(notModified)
	}
}

func TestWrongResponses(t *testing.T) {
	key := newES256()
	elsewhere := newKeyServer(t)
	elsewhere.publish(key)
	padded := append(bytes.Repeat([]byte(" "), 10<<20), keySet(key)...)
	for name, test := range map[string]struct {
		respond http.HandlerFunc
		want    string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		}, countersign.CodeKeysUnavailable},
		"permanent redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
		}, countersign.CodeKeysUnavailable},
		"10 MB": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(padded) },
			countersign.CodeKeysUnavailable},
		"html": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
			countersign.CodeKeysUnavailable},
		"duplicate members": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(replaceFirst(string(keySet(key)), "{", `{"keys":[],`)))
		}, countersign.CodeKeysUnavailable},
		"another issuer's set": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keySet(newES256())) },
			countersign.CodeUnknownKey},
		"not modified": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) },
			countersign.CodeKeysUnavailable},
		"unfinished": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
		}, countersign.CodeKeysUnavailable},
		"many keys": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[{}` + strings.Repeat(`,{}`, 128) + `]}`))
		}, countersign.CodeKeysUnavailable},
		"no keys": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
			countersign.CodeUnknownKey},
	} {
		server, clock := newKeyServer(t), newClock()
		server.respondWith(test.respond)
		expectCode(t, verifyNow(t, server.verifier(t, clock), key, clock), test.want, name)
		expectRequests(t, server, 1)
	}
	expectRequests(t, elsewhere, 0)
}

func TestServerThatHangsCostsOneTimeout(t *testing.T) {
	t.Parallel()
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	server.hold()
	verifier := server.verifier(t, clock)
	began := time.Now()
	results := make(chan string)
	signed := token(key, clock)
	verify := func() {
		_, err := verifier.Verify(context.Background(), []string{signed}, request())
		results <- code(err)
	}
	go verify()
	server.received(1)
	// All wait for one fetch and share its failure. Those above the limit do not wait.
	const waiting = 1024
	for range waiting + 100 {
		go verify()
	}
	for range 100 {
		expectCode(t, <-results, countersign.CodeKeysUnavailable)
	}
	if elapsed := time.Since(began); elapsed > 4*time.Second {
		t.Error("calls above the limit waited", elapsed)
	}
	for range waiting + 1 {
		expectCode(t, <-results, countersign.CodeKeysUnavailable)
	}
	if elapsed := time.Since(began); elapsed < 4*time.Second || elapsed > 20*time.Second {
		t.Error(elapsed)
	}
	expectRequests(t, server, 1)
	server.release()
	clock.advance(1)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
}

func TestServerThatDripsIsCutOff(t *testing.T) {
	t.Parallel()
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.respondWith(func(w http.ResponseWriter, r *http.Request) {
		ticks := time.NewTicker(100 * time.Millisecond)
		defer ticks.Stop()
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			<-ticks.C
		}
	})
	began := time.Now()
	expectCode(t, verifyNow(t, server.verifier(t, clock), key, clock), countersign.CodeKeysUnavailable)
	if elapsed := time.Since(began); elapsed > 20*time.Second {
		t.Error(elapsed)
	}
}

func TestRotationUnderLoad(t *testing.T) {
	server, clock := newKeyServer(t), newClock()
	keys := []*signingKey{newEdDSA(), newEdDSA()}
	server.publish(keys...)
	verifier := server.verifier(t, clock)
	// Verifications are in progress while keys are fetched, but not while the clock
	// advances: a token could otherwise outlive its key.
	var step sync.RWMutex
	current := keys[0]
	verify := func() error {
		step.RLock()
		defer step.RUnlock()
		_, err := verifier.Verify(context.Background(), []string{token(current, clock)}, request())
		return err
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := verify(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for range 10 {
		// The next key is published, used after the freshness of the set, and the old one
		// is removed.
		keys = append(keys, newEdDSA())
		server.publish(keys[len(keys)-3:]...)
		for range 7 {
			step.Lock()
			clock.advance(60)
			step.Unlock()
			if err := verify(); err != nil {
				t.Error(err)
			}
		}
		step.Lock()
		current = keys[len(keys)-2]
		step.Unlock()
	}
	close(stop)
	group.Wait()
}

func TestCancelledRequestDoesNotEndTheFetch(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	server.hold()
	verifier := server.verifier(t, clock)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan string)
	go func() {
		_, err := verifier.Verify(ctx, []string{token(key, clock)}, request())
		result <- code(err)
	}()
	server.received(1)
	cancel()
	expectCode(t, <-result, countersign.CodeKeysUnavailable)
	server.release()
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	expectRequests(t, server, 1)
}

func TestSlowServerDelaysNoRequestWithKnownKeys(t *testing.T) {
	server, clock, key := newKeyServer(t), newClock(), newES256()
	server.publish(key)
	verifier := server.verifier(t, clock)
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	clock.advance(300)
	server.hold()
	done := make(chan string)
	go func() {
		_, err := verifier.Verify(context.Background(), []string{token(key, clock)}, request())
		done <- code(err)
	}()
	server.received(2)
	// A fetch runs, so that others use the old keys.
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	server.release()
	expectCode(t, <-done, "")
}

func TestPrivateCAs(t *testing.T) {
	key, clock := newES256(), newClock()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(keySet(key))
	}))
	server.Config.ErrorLog = discardLog()
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, append([]byte("\xef\xbb\xbf"), root...), 0o600); err != nil {
		t.Fatal(err)
	}
	url := countersign.WithJWKSURL(server.URL)
	verifier := newVerifier(t, clock.option(), url, countersign.WithCAFile(file))
	expectCode(t, verifyNow(t, verifier, key, clock), "")
	// Without the file, the error for logs says why, and the detail for callers does not.
	verifier = newVerifier(t, clock.option(), url)
	err := verifier.FetchKeys(t.Context())
	var refused *countersign.AssertionRefused
	if !errors.As(err, &refused) || refused.Code != countersign.CodeKeysUnavailable {
		t.Fatal(err)
	}
	if !strings.Contains(err.Error(), "certificate") || strings.Contains(refused.Detail, "certificate") {
		t.Error(err, refused.Detail)
	}
}

func TestKeysOfAFile(t *testing.T) {
	old, next, clock := newES256(), newES256(), newClock()
	file := filepath.Join(t.TempDir(), "keys.json")
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	option := countersign.WithJWKSFile(file)
	write([]byte(`{"keys":[]}`))
	if _, err := countersign.NewAssertionVerifier(issuer, audience, option); err == nil {
		t.Error("a file without keys was accepted")
	}
	write(keySet(old))
	verifier := newVerifier(t, clock.option(), option)
	expectCode(t, verifyNow(t, verifier, old, clock), "")
	write(keySet(old, next))
	clock.advance(5)
	expectCode(t, verifyNow(t, verifier, next, clock), "")
	write(keySet(next))
	clock.advance(60)
	expectCode(t, verifyNow(t, verifier, old, clock), countersign.CodeUnknownKey)
	// A bad edit does not remove the last good keys.
	write([]byte("{"))
	clock.advance(60)
	expectCode(t, verifyNow(t, verifier, next, clock), "")
}
