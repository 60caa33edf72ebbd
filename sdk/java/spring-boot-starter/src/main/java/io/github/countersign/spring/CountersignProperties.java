package io.github.countersign.spring;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;
import org.springframework.util.unit.DataSize;

/**
 * The options of the verifier, {@code countersign.*}. See {@code AssertionVerifier.Builder}.
 *
 * @param issuer the gateway; required
 * @param audience this service; required
 * @param jwksUrl URL of the gateway's key set
 * @param jwksFile file with the gateway's key set
 * @param caFile PEM file with root certificates for {@code jwksUrl}
 * @param authority what the gateway sends as {@code Host}
 * @param pathPrefix what a proxy removes from the path
 * @param skew allowed difference of the clocks
 * @param unverifiedPaths exact raw paths that GET and HEAD may use without an assertion
 * @param allowCallerBinding also accept assertions that are not bound to a request
 * @param requireBodyBinding accept only assertions that are bound to the body
 * @param maxBody the longest body, if body binding is required
 */
@ConfigurationProperties("countersign")
public record CountersignProperties(
        String issuer,
        String audience,
        String jwksUrl,
        Path jwksFile,
        Path caFile,
        String authority,
        String pathPrefix,
        @DefaultValue("10s") Duration skew,
        @DefaultValue List<String> unverifiedPaths,
        boolean allowCallerBinding,
        boolean requireBodyBinding,
        @DefaultValue("1MB") DataSize maxBody) {}
