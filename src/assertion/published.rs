//! What the gateway publishes about its signing keys: JWKS and metadata.
