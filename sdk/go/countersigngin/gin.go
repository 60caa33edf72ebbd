// Package countersigngin verifies Countersign assertions in services that use gin.
//
//	engine := gin.New()
//	engine.Use(countersigngin.Middleware(verifier))
//
// Handlers read the caller with [Caller], or with countersign.CallerFromContext from
// the context of the request.
package countersigngin

import (
	"github.com/gin-gonic/gin"

	countersign "github.com/countersign/countersign/sdk/go"
)

// Middleware returns a handler that continues only for requests with a verified
// assertion, and for unverified paths. Other requests get problem details, and the
// remaining handlers are not called.
//
// Use it with the engine and before all other middleware, so that it also protects
// gin's own responses to unknown routes. The request target is that of the received
// request: gin's groups, parameters and Engine.HandleContext do not change it. Gin
// redirects a path with a wrong final slash before it calls any middleware, unless
// Engine.RedirectTrailingSlash is false.
func Middleware(verifier *countersign.AssertionVerifier) gin.HandlerFunc {
	if verifier == nil {
		panic("countersigngin: the verifier is nil")
	}
	return func(c *gin.Context) {
		request, err := verifier.Authenticate(c.Request)
		if err != nil {
			countersign.WriteProblem(c.Writer, err)
			c.Abort()
			return
		}
		c.Request = request
		c.Next()
	}
}

// Caller returns the caller of the request. ok is false if there is none: the request
// was to an unverified path, or the middleware was not called.
func Caller(c *gin.Context) (caller *countersign.Caller, ok bool) {
	return countersign.CallerFromContext(c.Request.Context())
}
