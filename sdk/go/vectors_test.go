package countersign_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"

	countersign "github.com/countersign/countersign/sdk/go"
)

// vectors is the form of sdk/vectors/vectors.json.
type vectors struct {
	Version int                        `json:"version"`
	KeySets map[string]json.RawMessage `json:"key_sets"`
	Cases   []vector                   `json:"cases"`
}

type vector struct {
	Name    string `json:"name"`
	Rule    string `json:"rule"`
	Options struct {
		Issuer             string  `json:"issuer"`
		Audience           string  `json:"audience"`
		Authority          *string `json:"authority"`
		PathPrefix         *string `json:"path_prefix"`
		Skew               int64   `json:"skew"`
		AllowCallerBinding bool    `json:"allow_caller_binding"`
		RequireBodyBinding bool    `json:"require_body_binding"`
	} `json:"options"`
	KeySet     string   `json:"key_set"`
	Now        int64    `json:"now"`
	Assertions []string `json:"assertions"`
	Request    struct {
		Method string   `json:"method"`
		Hosts  []string `json:"hosts"`
		Target string   `json:"target"`
		Body   *string  `json:"body"`
	} `json:"request"`
	Expect struct {
		Code         string         `json:"code"`
		Sub          string         `json:"sub"`
		TrustDomain  *string        `json:"trust_domain"`
		RequestBound bool           `json:"request_bound"`
		Claims       map[string]any `json:"claims"`
	} `json:"expect"`
}

func TestVectors(t *testing.T) {
	file, err := os.ReadFile("../vectors/vectors.json")
	if err != nil {
		skipOrFail(t, "no vectors: "+err.Error())
	}
	var all vectors
	if err := json.Unmarshal(file, &all); err != nil {
		t.Fatal(err)
	}
	if all.Version != 1 || len(all.Cases) == 0 {
		t.Fatalf("version %d with %d cases", all.Version, len(all.Cases))
	}
	for _, vector := range all.Cases {
		t.Run(vector.Name, func(t *testing.T) { vector.run(t, all.KeySets[vector.KeySet]) })
	}
}

func (v *vector) run(t *testing.T, keys []byte) {
	options := []countersign.Option{
		countersign.WithJWKS(keys),
		countersign.WithSkew(time.Duration(v.Options.Skew) * time.Second),
		countersign.WithClock(func() time.Time { return time.Unix(v.Now, 0) }),
	}
	if v.Options.Authority != nil {
		options = append(options, countersign.WithAuthority(*v.Options.Authority))
	}
	if v.Options.PathPrefix != nil {
		options = append(options, countersign.WithPathPrefix(*v.Options.PathPrefix))
	}
	if v.Options.AllowCallerBinding {
		options = append(options, countersign.AllowCallerBinding())
	}
	if v.Options.RequireBodyBinding {
		options = append(options, countersign.RequireBodyBinding())
	}
	verifier, err := countersign.NewAssertionVerifier(v.Options.Issuer, v.Options.Audience, options...)
	if err != nil {
		t.Fatal(err)
	}
	request := countersign.Request{Method: v.Request.Method, Hosts: v.Request.Hosts, Target: v.Request.Target}
	if v.Request.Body != nil {
		if request.Body, err = base64.RawURLEncoding.DecodeString(*v.Request.Body); err != nil {
			t.Fatal(err)
		}
	}
	caller, err := verifier.Verify(t.Context(), v.Assertions, request)
	if got := code(err); got != v.Expect.Code {
		t.Fatalf("%s: got %q (%v), want %q", v.Rule, got, err, v.Expect.Code)
	}
	if err != nil {
		return
	}
	trustDomain := ""
	if v.Expect.TrustDomain != nil {
		trustDomain = *v.Expect.TrustDomain
	}
	if caller.Sub != v.Expect.Sub || caller.TrustDomain != trustDomain || caller.RequestBound() != v.Expect.RequestBound {
		t.Errorf("%+v", caller)
	}
	if claims := plain(t, caller.Claims); !includes(claims, plain(t, v.Expect.Claims)) {
		t.Errorf("got %v, want %v", claims, v.Expect.Claims)
	}
}

// includes returns whether all members of want are in got, also in nested objects.
func includes(got, want any) bool {
	members, ok := want.(map[string]any)
	if !ok {
		return reflect.DeepEqual(got, want)
	}
	all, ok := got.(map[string]any)
	for name, value := range members {
		if actual, exists := all[name]; !exists || !includes(actual, value) {
			return false
		}
	}
	return ok
}

// plain converts json.Number to float64.
func plain(t *testing.T, value any) any {
	t.Helper()
	var converted any
	if err := json.Unmarshal([]byte(text(value)), &converted); err != nil {
		t.Fatal(err)
	}
	return converted
}
