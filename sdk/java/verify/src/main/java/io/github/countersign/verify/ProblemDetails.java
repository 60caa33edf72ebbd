package io.github.countersign.verify;

import com.nimbusds.jose.util.JSONObjectUtils;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The response to a refused request (RFC 9457).
 *
 * @param status 401, 403 or 503
 * @param headers all header fields
 * @param body JSON
 */
public record ProblemDetails(int status, Map<String, String> headers, byte[] body) {
    /**
     * Describes a refusal.
     *
     * @param refusal why the request was refused
     * @return the response
     */
    public static ProblemDetails of(AssertionRefused refusal) {
        Map<String, Object> members = new LinkedHashMap<>();
        members.put("type", "about:blank");
        members.put("title", title(refusal.status()));
        members.put("status", refusal.status());
        members.put("code", refusal.code());
        members.put("detail", refusal.detail());
        byte[] body = JSONObjectUtils.toJSONString(members).getBytes(StandardCharsets.UTF_8);
        Map<String, String> headers = new LinkedHashMap<>();
        headers.put("Content-Type", "application/problem+json");
        headers.put("Content-Length", Integer.toString(body.length));
        headers.put("Cache-Control", "no-store");
        if (refusal.status() == 401) {
            // RFC 9110 section 15.5.2: a 401 must name a scheme. Only the gateway can satisfy this one.
            headers.put("WWW-Authenticate", "Countersign");
        }
        return new ProblemDetails(refusal.status(), headers, body);
    }

    private static String title(int status) {
        return switch (status) {
            case 401 -> "Unauthorized";
            case 403 -> "Forbidden";
            default -> "Service Unavailable";
        };
    }
}
