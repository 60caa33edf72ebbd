package io.github.countersign.spring;

import org.springframework.beans.factory.InitializingBean;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;

/** Keeps Spring WebFlux applications from starting: this starter would not protect them. */
@AutoConfiguration
@ConditionalOnWebApplication(type = ConditionalOnWebApplication.Type.REACTIVE)
public class CountersignReactiveAutoConfiguration implements InitializingBean {
    /** Made by Spring. */
    public CountersignReactiveAutoConfiguration() {}

    @Override
    public void afterPropertiesSet() {
        throw new IllegalStateException("countersign-spring-boot-starter does not protect Spring WebFlux applications");
    }
}
