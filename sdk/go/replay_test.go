package countersign_test

import (
	"context"
	"errors"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

// replayToken signs an assertion with this jti at this time.
func replayToken(key *signingKey, id string, now int64) string {
	return key.assertion(with(requestClaims(), "jti", id, "iat", now, "exp", now+30))
}

func TestAssertionCanBeMadeToCountOnce(t *testing.T) {
	key, clock := newEdDSA(), newClock()
	verifier := verifierFor(t, key, clock.option(), countersign.AllowCallerBinding(),
		countersign.WithReplayStore(countersign.NewMemoryReplayStore(2)))
	verify := func(token string) string { return verifyCode(t, verifier, token, request()) }
	first := replayToken(key, "one", start)
	// A refused assertion does not count as used.
	expectCode(t, verifyCode(t, verifier, first, requestTo("PUT", host, "/orders/7")), countersign.CodeMethod)
	expectCode(t, verify(first), "")
	expectCode(t, verify(first), countersign.CodeReplayed)
	expectCode(t, verify(replayToken(key, "two", start)), "")
	expectCode(t, verify(replayToken(key, "three", start)), countersign.CodeReplayCacheFull)
	expectCode(t, verify(replayToken(key, "two", start)), countersign.CodeReplayed)
	// Caller-bound assertions may be used again.
	expectCode(t, verify(key.assertion(callerClaims())), "")
	expectCode(t, verify(key.assertion(callerClaims())), "")
	// Remembered until it is not accepted any more: exp plus skew.
	clock.advance(39)
	expectCode(t, verify(first), countersign.CodeReplayed)
	clock.advance(1)
	expectCode(t, verify(first), countersign.CodeExpired)
	expectCode(t, verify(replayToken(key, "three", start+40)), "")
}

func TestUsedAssertionStaysRefusedAfterTheClockIsSetBack(t *testing.T) {
	key, clock := newEdDSA(), newClock()
	verifier := verifierFor(t, key, clock.option(),
		countersign.WithReplayStore(countersign.NewMemoryReplayStore(100)))
	verify := func(token string) string { return verifyCode(t, verifier, token, request()) }
	first, unused := replayToken(key, "first", start), replayToken(key, "unused", start)
	expectCode(t, verify(first), "")
	// The store removes the first one, which has expired.
	clock.advance(45)
	second := replayToken(key, "second", start+45)
	expectCode(t, verify(second), "")
	clock.advance(-10)
	expectCode(t, verify(first), countersign.CodeExpired)
	expectCode(t, verify(second), countersign.CodeReplayed)
	// It cannot be distinguished from the first one.
	expectCode(t, verify(unused), countersign.CodeExpired)
	expectCode(t, verify(replayToken(key, "third", start+35)), "")
}

func TestNewAssertionsAreAcceptedAfterTheClockWasAhead(t *testing.T) {
	key, clock := newEdDSA(), newClock()
	verifier := verifierFor(t, key, clock.option(),
		countersign.WithReplayStore(countersign.NewMemoryReplayStore(100)))
	verify := func(token string) string { return verifyCode(t, verifier, token, request()) }
	first := replayToken(key, "first", start)
	expectCode(t, verify(first), "")
	clock.advance(3600)
	expectCode(t, verify(replayToken(key, "ahead", start+3600)), "")
	clock.advance(-3590)
	expectCode(t, verify(first), countersign.CodeExpired)
	second := replayToken(key, "second", start+10)
	expectCode(t, verify(second), "")
	expectCode(t, verify(second), countersign.CodeReplayed)
	clock.advance(3590)
	expectCode(t, verify(replayToken(key, "ahead", start+3600)), countersign.CodeReplayed)
}

// failingStore is a store that cannot be reached.
type failingStore struct{}

func (failingStore) Use(context.Context, string, time.Time, time.Time) error {
	return errors.New("connection to 10.0.0.9 refused")
}

func TestStoreThatIsDownRefuses(t *testing.T) {
	key := newEdDSA()
	verifier := verifierFor(t, key, countersign.WithReplayStore(failingStore{}))
	_, err := verifier.Verify(t.Context(), []string{key.assertion(requestClaims())}, request())
	var refused *countersign.AssertionRefused
	if !errors.As(err, &refused) || refused.Code != countersign.CodeReplayCacheFull || refused.Status != 503 {
		t.Fatal(err)
	}
	if want := "used assertions cannot be remembered now; try again later"; refused.Detail != want {
		t.Error(refused.Detail)
	}
	if errors.Unwrap(refused) == nil {
		t.Error("the cause is missing")
	}
}

// recordingStore records the arguments.
type recordingStore struct {
	ids    map[string]int
	expiry time.Time
}

func (s *recordingStore) Use(_ context.Context, id string, expiry, _ time.Time) error {
	s.ids[id]++
	s.expiry = expiry
	return nil
}

func TestVerifiersCanShareAStore(t *testing.T) {
	key, store := newEdDSA(), &recordingStore{ids: map[string]int{}}
	token := key.assertion(requestClaims())
	for range 2 {
		verifier := verifierFor(t, key, countersign.WithReplayStore(store))
		expectCode(t, verifyCode(t, verifier, token, request()), "")
	}
	other, err := countersign.NewAssertionVerifier(issuer, "payments", newClock().option(),
		countersign.WithJWKS(keySet(key)), countersign.WithReplayStore(store))
	if err != nil {
		t.Fatal(err)
	}
	expectCode(t, verifyCode(t, other, key.assertion(with(requestClaims(), "aud", "payments")), request()), "")
	if len(store.ids) != 2 || store.expiry.Unix() != start+40 {
		t.Errorf("%+v", store)
	}
	for id := range store.ids {
		if len(id) != 43 {
			t.Error(id)
		}
	}
}
