//! The keys `pass_headers`, `remove_headers` and `keep_headers` of `[[upstream]]`.

use std::sync::Arc;

use http::HeaderName;

use super::assertion;
use super::context::Context;
use crate::authn::api_key;
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::UpstreamSection;
use crate::document::value::At;
use crate::upstream::TraceContext;
use crate::upstream::header_rules::{ALWAYS_PASSED, FieldPattern, HeaderRules};

/// Builds the rules of one upstream that decide which header fields are passed or removed.
pub(super) fn header_rules(
    section: &UpstreamSection,
    document: &Document,
    context: &mut Context<'_>,
) -> Arc<HeaderRules> {
    let private = private_fields(document);
    for written in section.pass_headers.items() {
        check_passed(written, &private, context);
    }
    for written in section.remove_headers.items() {
        check_removed(written, &private, context);
    }
    for written in section.keep_headers.items() {
        check_kept(written, &private, context);
    }
    let values = |items: &[At<FieldPattern>]| items.iter().map(|at| at.value.clone()).collect();
    Arc::new(HeaderRules {
        pass: section.pass_headers.value().map(|items| values(items)),
        remove: values(section.remove_headers.items()),
        keep: values(section.keep_headers.items()),
        trace: section.trace.or(TraceContext::default()),
    })
}

/// Returns the header field that carries the assertion and the header field that carries API keys.
fn private_fields(document: &Document) -> [HeaderName; 2] {
    let assertion = document.assertion.as_ref();
    let api_keys = document.api_keys_section.as_ref();
    [
        assertion.map_or(assertion::DEFAULT_HEADER, |section| {
            section.header.or(assertion::DEFAULT_HEADER)
        }),
        api_keys.map_or(api_key::DEFAULT_HEADER, |section| {
            section.header.or(api_key::DEFAULT_HEADER)
        }),
    ]
}

fn check_kept(written: &At<FieldPattern>, private: &[HeaderName], context: &mut Context<'_>) {
    let pattern = &written.value;
    let (message, help) = if let Some(field) = pattern.of_the_connection() {
        (
            format!("{field} belongs to the connection between the caller and the gateway"),
            "remove it from keep_headers: the gateway writes what the service's connection needs",
        )
    } else if let Some(field) = pattern.of_the_gateway(private) {
        (
            format!("{field} is the gateway's to write; a caller's own can never be kept"),
            help_for(field, "remove it from keep_headers, or name single fields"),
        )
    } else if !pattern.is_removed_by_default() {
        (
            format!("{} is not removed by default", pattern.as_str()),
            "remove it from keep_headers: it passes without",
        )
    } else {
        return;
    };
    refuse(written, message, help, context);
}

fn check_passed(written: &At<FieldPattern>, private: &[HeaderName], context: &mut Context<'_>) {
    let pattern = &written.value;
    // A pattern with `*` can also match fields that only the gateway writes. This is no error,
    // because `pass_headers` has no effect on those fields.
    let single = !pattern.as_str().ends_with('*');
    let (message, help) = if ALWAYS_PASSED.contains(&pattern.as_str()) {
        return;
    } else if let Some(field) = pattern.of_the_connection().filter(|_| single) {
        (
            format!("{field} belongs to the connection between the caller and the gateway"),
            "remove it from pass_headers: the gateway writes what the service's connection needs",
        )
    } else if let Some(field) = pattern.of_the_gateway(private).filter(|_| single) {
        (
            format!("{field} is the gateway's to write; a caller's own never passes"),
            help_for(
                field,
                "remove it from pass_headers: what the gateway writes always passes",
            ),
        )
    } else if pattern.is_removed_by_default() {
        (
            format!("{} is removed by default", pattern.as_str()),
            "write it into keep_headers if the service is to believe its callers in this",
        )
    } else {
        return;
    };
    refuse(written, message, help, context);
}

fn check_removed(written: &At<FieldPattern>, private: &[HeaderName], context: &mut Context<'_>) {
    let pattern = &written.value;
    let single = !pattern.as_str().ends_with('*');
    let (message, help) = if let Some(field) = pattern.of_the_connection() {
        (
            format!("{field} frames or addresses the message, or never passes"),
            "remove it from remove_headers, or name single fields",
        )
    } else if let Some(field) = pattern.of_the_gateway(private).filter(|_| single) {
        (
            format!("{field} is the gateway's to write; a caller's own never passes"),
            help_for(
                field,
                "remove it from remove_headers; `forwarded` and `certificate_headers` say what the gateway writes",
            ),
        )
    } else {
        return;
    };
    refuse(written, message, help, context);
}

/// Returns how to fix a header rule about a field that only the gateway writes. Returns `otherwise`
/// if there is no better help for this field.
fn help_for<'a>(field: &str, otherwise: &'a str) -> &'a str {
    match field {
        "authorization" => {
            "remove it; `forward_token` of [[route]] says whether the caller's token is forwarded"
        }
        _ => otherwise,
    }
}

fn refuse(written: &At<FieldPattern>, message: String, help: &str, context: &mut Context<'_>) {
    context.error(Diagnostic::new(written.place.clone(), message).help(help));
}
