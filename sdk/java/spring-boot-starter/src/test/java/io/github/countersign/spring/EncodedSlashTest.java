package io.github.countersign.spring;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import jakarta.servlet.http.HttpServletRequest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.web.embedded.tomcat.TomcatServletWebServerFactory;
import org.springframework.boot.web.server.WebServerFactoryCustomizer;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RestController;

/** What the README warns of: some paths of a request are decoded before they are split. */
class EncodedSlashTest {
    private static final String CALLER = "spiffe://example.org/shop";
    private static final String TARGET = "/files/a%2Fb";

    @RestController
    static class Handlers {
        @GetMapping("/files/{name}")
        String one(@PathVariable String name, Caller caller, HttpServletRequest request) {
            return "one " + seen(name, caller, request);
        }

        @GetMapping("/files/a/{name}")
        String two(@PathVariable String name, Caller caller, HttpServletRequest request) {
            return "two " + seen(name, caller, request);
        }

        private static String seen(String name, Caller caller, HttpServletRequest request) {
            String url = caller.htu().orElseThrow();
            return name + " " + request.getServletPath() + " " + request.getRequestURI() + " "
                    + url.substring(url.indexOf("/files"));
        }
    }

    @SpringBootConfiguration
    @EnableAutoConfiguration
    static class Strict {
        @Bean
        AssertionVerifier verifier() {
            return Service.GATEWAY.verifier();
        }

        @Bean
        Handlers handlers() {
            return new Handlers();
        }
    }

    @Configuration(proxyBeanMethods = false)
    static class Decoding extends Strict {
        @Bean
        WebServerFactoryCustomizer<TomcatServletWebServerFactory> tomcat() {
            return factory -> factory.addConnectorCustomizers(
                    connector -> connector.setEncodedSolidusHandling("decode"));
        }
    }

    @Test
    void tomcatRefusesThem() throws Exception {
        try (Service service = Service.start(Strict.class)) {
            assertThat(service.get(TARGET, CALLER).statusCode()).isEqualTo(400);
        }
    }

    @ParameterizedTest
    @CsvSource({"path_pattern_parser, one a/b", "ant_path_matcher, two b"})
    void theServletPathIsDecodedAndPathPatternsAreNot(String strategy, String handler) throws Exception {
        try (Service service =
                Service.start(Decoding.class, "spring.mvc.pathmatch.matching-strategy=" + strategy)) {
            assertThat(service.get(TARGET, CALLER).body())
                    .isEqualTo(handler + " /files/a/b " + TARGET + " " + TARGET);
        }
    }
}
