// Orders is a service that identifies its callers. GATEWAY is the gateway's issuer.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	countersign "github.com/countersign/countersign/sdk/go"
)

func order(w http.ResponseWriter, r *http.Request) {
	caller, _ := countersign.CallerFromContext(r.Context())
	_, _ = fmt.Fprintf(w, "order %s, requested by %s\n", r.PathValue("id"), caller.Sub)
}

func main() {
	gateway := os.Getenv("GATEWAY")
	verifier, err := countersign.NewAssertionVerifier(gateway, "orders", countersign.WithJWKSURL(gateway+"/.well-known/jwks.json"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /orders/{id}", order)
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN"), verifier.Middleware(http.DefaultServeMux)))
}
