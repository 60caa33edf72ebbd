/** Auto-configuration for Spring Boot 3: all requests need a verified assertion, and handlers may take a {@code Caller}. */
package io.github.countersign.spring;
