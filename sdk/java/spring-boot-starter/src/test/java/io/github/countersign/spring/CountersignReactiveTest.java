package io.github.countersign.spring;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.boot.test.context.runner.ReactiveWebApplicationContextRunner;

class CountersignReactiveTest {
    private static final AutoConfigurations ALL = AutoConfigurations.of(
            CountersignAutoConfiguration.class, CountersignReactiveAutoConfiguration.class);

    @Test
    void reactiveApplicationsDoNotStart() {
        new ReactiveWebApplicationContextRunner()
                .withConfiguration(ALL)
                .run(context -> assertThat(context)
                        .getFailure()
                        .rootCause()
                        .hasMessageContaining("does not protect Spring WebFlux"));
    }

    @Test
    void applicationsWithoutServerAreNotAffected() {
        new ApplicationContextRunner().withConfiguration(ALL).run(context -> assertThat(context).hasNotFailed());
    }
}
