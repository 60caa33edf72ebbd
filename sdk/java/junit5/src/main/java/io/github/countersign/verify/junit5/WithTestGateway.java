package io.github.countersign.verify.junit5;

import java.lang.annotation.Documented;
import java.lang.annotation.ElementType;
import java.lang.annotation.Inherited;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;
import org.junit.jupiter.api.extension.ExtendWith;

/** Gives parameters of type {@link TestGateway} to the tests of a class: one gateway for the whole class. */
@Documented
@Inherited
@Retention(RetentionPolicy.RUNTIME)
@Target(ElementType.TYPE)
@ExtendWith(TestGatewayExtension.class)
public @interface WithTestGateway {
    /** {@return the audience of the service under test} */
    String audience();
}
