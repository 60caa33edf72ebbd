package io.github.countersign.verify.servlet;

import io.github.countersign.verify.AssertionRefused;
import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import io.github.countersign.verify.ProblemDetails;
import io.github.countersign.verify.RequestParts;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Collections;
import java.util.Enumeration;
import java.util.List;
import java.util.Objects;
import java.util.Optional;

/**
 * Lets only requests with a verified assertion pass. Others get problem details (RFC 9457).
 *
 * <p>It must be the first filter, and be mapped to {@code /*}: what runs before it, or outside of its mapping, does not know
 * the caller.
 *
 * <p>The target is {@code getRequestURI()} and {@code getQueryString()}, which containers do not decode. Targets with
 * characters outside of ASCII are refused, because containers show different ones. A container for HTTP/2 that shows no
 * {@code Host} field needs the verifier's option {@code authority}.
 */
public final class AssertionFilter implements Filter {
    /** The longest body if none is given, in bytes. */
    public static final int DEFAULT_MAX_BODY = 1024 * 1024;

    private static final String CALLER = "io.github.countersign.verify.caller";
    private static final System.Logger LOG = System.getLogger("io.github.countersign.verify");

    private final AssertionVerifier verifier;
    private final int maxBody;

    /** What the filter found. Requests of unverified paths have no caller. */
    private record Checked(Optional<Caller> caller) {}

    /**
     * Makes a filter.
     *
     * @param verifier applies the rules
     */
    public AssertionFilter(AssertionVerifier verifier) {
        this(verifier, DEFAULT_MAX_BODY);
    }

    /**
     * Makes a filter.
     *
     * @param verifier applies the rules
     * @param maxBody the longest body in bytes, if the verifier requires body binding. The filter then reads the body, so
     *     that the parameters of forms in bodies are not available; read the body instead.
     */
    public AssertionFilter(AssertionVerifier verifier, int maxBody) {
        this.verifier = Objects.requireNonNull(verifier);
        if (maxBody < 0 || maxBody == Integer.MAX_VALUE) {
            throw new IllegalArgumentException("maxBody is out of range");
        }
        this.maxBody = maxBody;
    }

    /**
     * Returns the verified caller of a request.
     *
     * @param request in a handler
     * @return the caller; empty if the path is one of the unverified ones
     * @throws IllegalStateException if no filter checked the request
     */
    public static Optional<Caller> findCaller(ServletRequest request) {
        if (request.getAttribute(CALLER) instanceof Checked checked) {
            return checked.caller();
        }
        throw new IllegalStateException("no AssertionFilter checked the request");
    }

    /**
     * Returns the verified caller of a request.
     *
     * @param request in a handler
     * @return the caller
     * @throws IllegalStateException if there is none: the path is one of the unverified ones, or no filter checked the
     *     request
     */
    public static Caller caller(ServletRequest request) {
        return findCaller(request).orElseThrow(() -> new IllegalStateException("the request has no verified caller"));
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        if (!(request instanceof HttpServletRequest http) || !(response instanceof HttpServletResponse answer)) {
            throw new ServletException("only HTTP requests have assertions");
        }
        // Forwards and the like show another target. The request was checked when it arrived.
        if (http.getDispatcherType() != DispatcherType.REQUEST && http.getAttribute(CALLER) instanceof Checked) {
            chain.doFilter(request, response);
            return;
        }
        // Nothing but this filter sets the caller.
        http.removeAttribute(CALLER);
        HttpServletRequest passed;
        try {
            passed = checked(http);
        } catch (AssertionRefused refusal) {
            LOG.log(System.Logger.Level.INFO, "refused: {0}", refusal.getMessage());
            refuse(answer, refusal);
            return;
        }
        chain.doFilter(passed, response);
    }

    private HttpServletRequest checked(HttpServletRequest request) throws IOException {
        if (request.getDispatcherType() != DispatcherType.REQUEST) {
            throw new AssertionRefused("assertion-request-unclear");
        }
        String target = target(request);
        if (verifier.isUnverified(request.getMethod(), target)) {
            request.setAttribute(CALLER, new Checked(Optional.empty()));
            return request;
        }
        String assertion = RequestParts.onlyAssertion(values(request, RequestParts.HEADER));
        RequestParts parts = new RequestParts(request.getMethod(), values(request, "Host"), target);
        Caller caller = verifier.verifyHead(assertion, parts);
        HttpServletRequest passed = request;
        if (verifier.requiresBody()) {
            // Without `htb` the request is refused anyway.
            byte[] body = caller.htb().isPresent() ? body(request) : null;
            verifier.checkBody(caller, body);
            passed = new BufferedRequest(request, body);
        }
        verifier.admit(caller);
        request.setAttribute(CALLER, new Checked(Optional.of(caller)));
        return passed;
    }

    private static String target(HttpServletRequest request) {
        String path = request.getRequestURI();
        String query = request.getQueryString();
        String target = query == null ? path : path + "?" + query;
        if (path.indexOf('?') >= 0 || !target.chars().allMatch(c -> c > 0x20 && c < 0x7f)) {
            throw new AssertionRefused(
                    "assertion-request-unclear", "the server does not tell the request's target as it was received");
        }
        return target;
    }

    private static List<String> values(HttpServletRequest request, String name) {
        Enumeration<String> values = request.getHeaders(name);
        return values == null ? List.of() : Collections.list(values);
    }

    private byte[] body(HttpServletRequest request) throws IOException {
        if (request.getContentLengthLong() > maxBody) {
            throw tooLong();
        }
        byte[] body = request.getInputStream().readNBytes(maxBody + 1);
        if (body.length > maxBody) {
            throw tooLong();
        }
        return body;
    }

    private static AssertionRefused tooLong() {
        return new AssertionRefused("assertion-body-not-bound", "the request's body is too long to be verified");
    }

    private static void refuse(HttpServletResponse response, AssertionRefused refusal) throws IOException {
        ProblemDetails problem = ProblemDetails.of(refusal);
        response.resetBuffer();
        response.setStatus(problem.status());
        problem.headers().forEach(response::setHeader);
        // Containers send no body in responses to HEAD.
        response.getOutputStream().write(problem.body());
    }
}
