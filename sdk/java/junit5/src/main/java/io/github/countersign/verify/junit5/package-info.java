/** For the unit tests of services: a gateway that signs assertions, without a network. Never for production. */
package io.github.countersign.verify.junit5;
