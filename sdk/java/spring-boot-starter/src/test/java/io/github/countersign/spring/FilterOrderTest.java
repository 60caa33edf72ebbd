package io.github.countersign.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.web.bind.annotation.DeleteMapping;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.filter.ForwardedHeaderFilter;
import org.springframework.web.filter.HiddenHttpMethodFilter;

/** Other filters do not decide what is verified. */
class FilterOrderTest {
    private static final String CALLER = "spiffe://example.org/shop";
    private static final String PREFIX = "X-Forwarded-Prefix";

    @RestController
    static class Handlers {
        @GetMapping("/health")
        String health() {
            return "handler of /health";
        }

        @GetMapping("/x")
        String x(Caller caller, HttpServletRequest request) {
            return caller.sub() + " " + request.getRequestURI();
        }

        @DeleteMapping("/x")
        String delete() {
            return "deleted";
        }
    }

    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class Application {
        @Bean
        AssertionVerifier verifier(org.springframework.core.env.Environment options) {
            return Service.GATEWAY
                    .verifierOptions()
                    .jwksJson(Service.GATEWAY.keySet())
                    .unverifiedPaths("/actuator/health")
                    .pathPrefix(options.getProperty("test.prefix", ""))
                    .build();
        }

        @Bean
        Handlers handlers() {
            return new Handlers();
        }
    }

    @Configuration(proxyBeanMethods = false)
    static class Earlier extends Application {
        @Bean
        FilterRegistrationBean<ForwardedHeaderFilter> a1() {
            return new EarlierFilter<>(new ForwardedHeaderFilter());
        }

        @Bean
        FilterRegistrationBean<HiddenHttpMethodFilter> a2() {
            return new EarlierFilter<>(new HiddenHttpMethodFilter());
        }

        @Bean
        FilterRegistrationBean<Filter> a3() {
            Filter forwarding = (request, response, chain) -> {
                if (request.getParameter("forward") != null) {
                    request.getRequestDispatcher("/health").forward(request, response);
                } else if (request.getParameter("include") != null) {
                    request.getRequestDispatcher("/health").include(request, response);
                } else {
                    chain.doFilter(request, response);
                }
            };
            return new EarlierFilter<>(forwarding).forRequestsOnly();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"framework", "native", "none"})
    void forwardedFieldsChangeNothing(String strategy) throws Exception {
        try (Service service = Service.start(Application.class, "server.forward-headers-strategy=" + strategy)) {
            // If another filter came first, the code would be assertion-request-unclear.
            for (String prefix : new String[] {"/actuator", "/actuator/health/..", "/actuator/health;"}) {
                var answer = service.send("GET", "/health", PREFIX, prefix);
                assertThat(answer.body()).contains("\"assertion-missing\"");
            }
            var other = service.send("GET", "/x", Service.with(service.assertion("GET", "/api/x", CALLER), PREFIX, "/api"));
            assertThat(other.body()).contains("\"assertion-path\"");
            var same = service.send("GET", "/x", Service.with(service.assertion("GET", "/x", CALLER), PREFIX, "/api"));
            assertThat(same.body()).isEqualTo(CALLER + (strategy.equals("framework") ? " /api/x" : " /x"));
            for (Map.Entry<String, String> field : Map.of(
                            "X-Forwarded-Host", "evil.example", "Forwarded", "host=evil.example", "X-Forwarded-Port", "1")
                    .entrySet()) {
                String[] fields = Service.GATEWAY.headers("GET", "http://evil.example/x", CALLER).entrySet().stream()
                        .flatMap(assertion -> Stream.of(assertion.getKey(), assertion.getValue()))
                        .toArray(String[]::new);
                var host = service.send("GET", "/x", Service.with(fields, field.getKey(), field.getValue()));
                assertThat(host.body()).as(field.getKey()).contains("\"assertion-authority\"");
            }
        }
    }

    @Test
    void whatEarlierFiltersChangeIsRefused() throws Exception {
        try (Service service = Service.start(Earlier.class)) {
            var unchanged = service.get("/x", CALLER);
            assertThat(unchanged.body()).isEqualTo(CALLER + " /x");
            for (String[] fields : new String[][] {
                {}, service.assertion("GET", "/health", CALLER), service.assertion("GET", "/actuator/health", CALLER)
            }) {
                var answer = service.send("GET", "/health", Service.with(fields, PREFIX, "/actuator"));
                assertThat(answer.body()).contains("\"assertion-request-unclear\"");
            }
            for (String method : new String[] {"POST", "DELETE"}) {
                String target = "/x?_method=DELETE";
                var answer = service.send("POST", target, service.assertion(method, target, CALLER));
                assertThat(answer.body()).contains("\"assertion-request-unclear\"");
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"forward", "include"})
    void earlierFiltersCannotForwardPastTheFilter(String kind) throws Exception {
        try (Service service = Service.start(Earlier.class)) {
            var answer = service.send("GET", "/actuator/health?" + kind);
            assertThat(answer.body()).contains("\"assertion-request-unclear\"").doesNotContain("handler of");
        }
    }

    @Test
    void theConfiguredPrefixMayBePutInFrontAgain() throws Exception {
        try (Service service = Service.start(Earlier.class, "test.prefix=/api")) {
            String[] assertion = service.assertion("GET", "/api/x", CALLER);
            assertThat(service.send("GET", "/x", Service.with(assertion, PREFIX, "/api")).body()).isEqualTo(CALLER + " /api/x");
            assertThat(service.send("GET", "/x", assertion).body()).isEqualTo(CALLER + " /x");
            for (String prefix : new String[] {"/api/api", "/other", "/actuator"}) {
                assertThat(service.send("GET", "/x", Service.with(assertion, PREFIX, prefix)).body())
                        .contains("\"assertion-request-unclear\"");
            }
        }
    }
}
