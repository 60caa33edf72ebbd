// Package countersigngin verifies Countersign assertions in services that use gin.
//
//	engine := gin.New()
//	engine.GET("/orders/:id", order)
//	err := http.ListenAndServe("127.0.0.1:9001", countersigngin.Protect(engine, verifier))
//
// Handlers read the caller with [Caller], or with countersign.CallerFromContext from
// the context of the request.
//
// [Middleware] is for Engine.Use instead. Gin binds middleware to a route when the
// route is registered: routes that were registered before Use are not protected, and
// answer without any assertion. [Protect] does not depend on that order.
package countersigngin

import (
	"net/http"

	"github.com/gin-gonic/gin"

	countersign "github.com/countersign/countersign/sdk/go"
)

// Protect returns a handler that verifies each request before the engine sees it, so
// that it protects all routes, redirects and responses to unknown routes. Other
// requests get problem details.
//
// Serve this handler with net/http. Engine.Run and its variants would serve the engine
// without it. For unencrypted HTTP/2 use http.Server.Protocols: Engine.UseH2C has an
// effect only with Engine.Run and Engine.Handler.
func Protect(engine *gin.Engine, verifier *countersign.AssertionVerifier) http.Handler {
	if engine == nil {
		panic("countersigngin: the engine is nil")
	}
	if verifier == nil {
		panic("countersigngin: the verifier is nil")
	}
	return verifier.Middleware(engine)
}

// Middleware returns a handler that continues only for requests with a verified
// assertion, and for unverified paths. Other requests get problem details, and the
// remaining handlers are not called.
//
// Call Engine.Use with it before all other middleware and before any route is
// registered, also those of groups: earlier routes are not protected. The middleware
// then also protects gin's own responses to unknown routes. The request target is that of the received
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
// was to an unverified path, or neither [Protect] nor [Middleware] verified it.
func Caller(c *gin.Context) (caller *countersign.Caller, ok bool) {
	return countersign.CallerFromContext(c.Request.Context())
}
