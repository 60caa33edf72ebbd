/** A gRPC interceptor that lets only calls with a verified assertion pass. */
package io.github.countersign.verify.grpc;
