/**
 * Verifies Countersign identity assertions: who called, for exactly this request.
 *
 * <p>{@link io.github.countersign.verify.AssertionVerifier} applies all rules. Other artifacts connect it to servlets,
 * Spring Boot and gRPC, and help with the unit tests of services.
 */
package io.github.countersign.verify;
