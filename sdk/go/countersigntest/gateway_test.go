package countersigntest_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	countersign "github.com/countersign/countersign/sdk/go"
	"github.com/countersign/countersign/sdk/go/countersigntest"
)

func who(w http.ResponseWriter, r *http.Request) {
	caller, _ := countersign.CallerFromContext(r.Context())
	_, _ = w.Write([]byte(caller.Sub))
}

func TestUnitTestNeedsThreeLines(t *testing.T) {
	recorder := httptest.NewRecorder()

	gw := countersigntest.NewTestGateway(t, "orders")
	request := gw.NewRequest("GET", "https://orders.example.org/orders/7?x=1", nil, "spiffe://example.org/client")
	gw.Verifier().Middleware(http.HandlerFunc(who)).ServeHTTP(recorder, request)

	if recorder.Code != http.StatusOK || recorder.Body.String() != "spiffe://example.org/client" {
		t.Error(recorder.Code, recorder.Body)
	}
}

func TestRequestsThroughAServer(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	server := httptest.NewServer(gw.Verifier().Middleware(http.HandlerFunc(who)))
	t.Cleanup(server.Close)
	url := server.URL + "/orders/a%2Fb?x="
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = gw.Headers("GET", url, "api-key:nightly")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		t.Error(response.Status)
	}
}

func TestChangesOfClaims(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	const url = "https://orders.example.org/orders/7"
	for name, test := range map[string]struct {
		changes []countersigntest.Change
		want    string
	}{
		"none":         {nil, ""},
		"expired":      {[]countersigntest.Change{countersigntest.Expired()}, countersign.CodeExpired},
		"caller-bound": {[]countersigntest.Change{countersigntest.CallerBound()}, countersign.CodeNotRequestBound},
		"audience":     {[]countersigntest.Change{countersigntest.WithClaim("aud", "payments")}, countersign.CodeAudience},
		"body":         {[]countersigntest.Change{countersigntest.WithBody([]byte("one"))}, ""},
	} {
		_, err := gw.Verifier().VerifyRequest(gw.NewRequest("GET", url, strings.NewReader("one"), "api-key:nightly", test.changes...))
		var refused *countersign.AssertionRefused
		if got := errors.As(err, &refused); got != (test.want != "") || got && refused.Code != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysCanBeServedAndRotated(t *testing.T) {
	gw := countersigntest.NewTestGateway(t, "orders")
	url := gw.Serve()
	verifier, err := countersign.NewAssertionVerifier(gw.Issuer, gw.Audience, countersign.WithJWKSURL(url))
	if err != nil {
		t.Fatal(err)
	}
	verify := func() error {
		_, err := verifier.VerifyRequest(gw.NewRequest("GET", "https://orders.example.org/", nil, "api-key:nightly"))
		return err
	}
	if err := verify(); err != nil {
		t.Error(err)
	}
	gw.Rotate()
	if err := verifier.FetchKeys(t.Context()); err != nil {
		t.Error(err)
	}
	if err := verify(); err != nil {
		t.Error(err)
	}
}
