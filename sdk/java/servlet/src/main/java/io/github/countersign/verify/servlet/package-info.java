/** A Jakarta servlet filter that lets only requests with a verified assertion pass. */
package io.github.countersign.verify.servlet;
