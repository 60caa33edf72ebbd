package io.github.countersign.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import io.github.countersign.verify.servlet.AssertionFilter;
import jakarta.servlet.AsyncContext;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Optional;
import java.util.concurrent.Callable;
import org.junit.jupiter.api.Test;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.boot.web.servlet.error.ErrorController;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.stereotype.Controller;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.ResponseBody;
import org.springframework.web.servlet.mvc.method.annotation.StreamingResponseBody;

/** Forwards, includes, asynchronous and error dispatches show the caller of the request, or none. */
class DispatchTest {
    private static final String CALLER = "spiffe://example.org/shop";

    @Controller
    static class Handlers implements ErrorController {
        @ResponseBody
        @RequestMapping("/caller")
        String caller(Optional<Caller> caller) {
            return "sub " + caller.map(Caller::sub).orElse("none");
        }

        @ResponseBody
        @RequestMapping("/needy")
        String needy(Caller caller) {
            return "sub " + caller.sub();
        }

        @RequestMapping({"/forward", "/open-forward"})
        String forward() {
            return "forward:/caller";
        }

        @RequestMapping("/open-needy")
        String forwardToNeedy() {
            return "forward:/needy";
        }

        @RequestMapping("/include")
        void include(HttpServletRequest request, HttpServletResponse response) throws Exception {
            request.getRequestDispatcher("/caller").include(request, response);
        }

        @ResponseBody
        @RequestMapping("/callable")
        Callable<String> callable(Caller caller, HttpServletRequest request) {
            return () -> "sub " + caller.sub() + " " + AssertionFilter.caller(request).sub();
        }

        @ResponseBody
        @RequestMapping("/stream")
        StreamingResponseBody stream(Caller caller) {
            return out -> out.write(("sub " + caller.sub()).getBytes(StandardCharsets.UTF_8));
        }

        @RequestMapping("/dispatch")
        void dispatch(HttpServletRequest request, HttpServletResponse response) {
            AsyncContext context = request.startAsync(request, response);
            context.start(() -> context.dispatch("/caller"));
        }

        @RequestMapping({"/refused", "/open-refused"})
        void refused(HttpServletResponse response) throws IOException {
            response.sendError(404);
        }

        @ResponseBody
        @RequestMapping("/error")
        String error(Optional<Caller> caller) {
            return "error sub " + caller.map(Caller::sub).orElse("none");
        }
    }

    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class Application {
        @Bean
        AssertionVerifier verifier() {
            return Service.GATEWAY
                    .verifierOptions()
                    .jwksJson(Service.GATEWAY.keySet())
                    .unverifiedPaths("/open-forward", "/open-needy", "/open-refused")
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
        FilterRegistrationBean<Filter> a1() {
            Filter dispatching = (request, response, chain) -> {
                if (request.getParameter("async") != null) {
                    request.startAsync().dispatch("/caller");
                } else if (request.getParameter("error") != null) {
                    ((HttpServletResponse) response).sendError(404);
                } else {
                    chain.doFilter(request, response);
                }
            };
            return new EarlierFilter<>(dispatching).forRequestsOnly();
        }
    }

    @Test
    void dispatchesKeepTheCaller() throws Exception {
        try (Service service = Service.start(Application.class)) {
            for (String path : new String[] {"/caller", "/forward", "/include", "/stream", "/dispatch"}) {
                assertThat(service.get(path, CALLER).body()).as(path).isEqualTo("sub " + CALLER);
            }
            assertThat(service.get("/callable", CALLER).body()).isEqualTo("sub " + CALLER + " " + CALLER);
            assertThat(service.get("/refused", CALLER).body()).isEqualTo("error sub " + CALLER);
            assertThat(service.get("/no-such-path", CALLER).body()).isEqualTo("error sub " + CALLER);
            for (String path : new String[] {"/forward", "/include", "/callable", "/dispatch", "/refused", "/error"}) {
                assertThat(service.send("GET", path).body()).as(path).contains("\"assertion-missing\"");
            }
        }
    }

    @Test
    void dispatchesOfUnverifiedPathsHaveNoCaller() throws Exception {
        try (Service service = Service.start(Application.class)) {
            for (String[] fields : new String[][] {{}, service.assertion("GET", "/open-forward", CALLER)}) {
                assertThat(service.send("GET", "/open-forward", fields).body()).isEqualTo("sub none");
                assertThat(service.send("GET", "/open-refused", fields).body()).isEqualTo("error sub none");
                assertThat(service.send("GET", "/open-needy", fields).body()).isEqualTo("error sub none");
            }
        }
    }

    @Test
    void dispatchesOfEarlierFiltersHaveNoCaller() throws Exception {
        try (Service service = Service.start(Earlier.class)) {
            assertThat(service.get("/caller", CALLER).body()).isEqualTo("sub " + CALLER);
            for (String target : new String[] {"/caller?async", "/open-forward?async"}) {
                assertThat(service.get(target, CALLER).body()).contains("\"assertion-request-unclear\"");
            }
            var error = service.get("/caller?error", CALLER);
            assertThat(error.body()).doesNotContain("sub ");
            assertThat(error.statusCode()).isBetween(400, 500);
        }
    }
}
