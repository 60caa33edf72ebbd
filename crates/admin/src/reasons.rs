//! The web pages that the `type` of a problem document links to: one page for each reason code.
//!
//! The pages are generated from `reason` alone. They contain no scripts and no part of the request.

use std::fmt::Write as _;

use crate::reason::{FixedBy, ReasonCode};

/// Creates the list of all reasons, at `/reasons`.
pub(super) fn index() -> String {
    let mut rows = String::new();
    for code in ReasonCode::ALL {
        let _ = writeln!(
            rows,
            "<tr><td><a href=\"reasons/{code}\"><code>{code}</code></a></td><td>{}</td><td>{}</td></tr>",
            code.status(),
            escaped(code.title()),
        );
    }
    page(
        "Why Countersign refuses",
        &format!(
            "<p>Every answer made by the gateway names one of these codes in \
             <code>Countersign-Reason</code>.</p>\n<table>\n\
             <tr><th>Code</th><th>Status</th><th>Meaning</th></tr>\n{rows}</table>\n"
        ),
    )
}

/// Creates the page of one reason, at `/reasons/CODE`.
pub(super) fn one(code: ReasonCode) -> String {
    let mut facts = format!(
        "<dt>HTTP status</dt><dd>{}</dd>\n<dt>gRPC status</dt><dd>{}</dd>\n",
        code.status(),
        code.grpc_status()
    );
    if let Some(alert) = code.alert() {
        let _ = writeln!(
            facts,
            "<dt>TLS alert</dt><dd>{} <code>{}</code></dd>",
            alert.number(),
            alert.name()
        );
    }
    let mender = match code.fixed_by() {
        FixedBy::Caller => "the caller",
        FixedBy::Operator => "the gateway's operator",
        FixedBy::Service => "the operator of the service behind the gateway",
        FixedBy::Time => "time: try again later",
    };
    page(
        code.as_str(),
        &format!(
            "<p>{}</p>\n<p><strong>What helps:</strong> {}</p>\n<dl>\n\
             <dt>Who can mend it</dt><dd>{mender}</dd>\n<dt>About</dt><dd>{}</dd>\n{facts}</dl>\n\
             <p><a href=\"../reasons\">All reasons</a></p>\n",
            escaped(code.title()),
            escaped(code.hint()),
            code.category().as_str(),
        ),
    )
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>body{{font-family:sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;\
         line-height:1.5}}td,th{{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}}\
         dt{{font-weight:bold}}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_page_and_a_place_in_the_list() {
        let index = index();
        for code in ReasonCode::ALL {
            assert!(index.contains(&format!("href=\"reasons/{code}\"")));
            let page = one(*code);
            assert!(page.contains(&format!("<h1>{code}</h1>")));
            assert!(page.contains(&escaped(code.hint())), "{code}");
            assert!(!page.contains("<script"));
        }
    }
}
