//! All cases in which our verdict differs from the verdict of the suite, with the cause.

use countersign_core::reason::ReasonCode;

/// Why our verdict on a case differs from the verdict of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The gateway is stricter on purpose. The reason code is what the caller gets.
    Stricter(ReasonCode, &'static str),
    /// The gateway is more lenient on purpose, like OpenSSL.
    Lenient(&'static str),
    /// The case depends on a host name or a depth limit, which these tests do not use.
    NotAsked(&'static str),
}

use Cause::{Lenient, NotAsked, Stricter};

const CA_LEAF: Cause = Stricter(
    ReasonCode::WrongUsage,
    "a caller that could sign certificates is refused",
);
const EMAIL: Cause = Stricter(
    ReasonCode::NameConstraint,
    "webpki does not compare e-mail names and refuses all of them under such a constraint",
);
const DIRECTORY: Cause = Stricter(
    ReasonCode::NameConstraint,
    "webpki does not compare directory names and refuses all of them under such a constraint",
);
const SELF_ISSUED_LENGTH: Cause = Stricter(
    ReasonCode::ChainTooLong,
    "webpki does not exempt self-issued intermediates from path lengths",
);
const SELF_ISSUED_NAME: Cause = Stricter(
    ReasonCode::NameConstraint,
    "webpki does not exempt self-issued intermediates from name constraints",
);
const KEY_IDENTIFIER: Cause = Lenient(
    "key identifiers help to build paths and prove nothing; many private authorities leave them out",
);
const NAME: Cause = NotAsked("the command does not ask for a host name");
const DEPTH: Cause = NotAsked("the command has no depth option");
const WEB: Cause =
    Lenient("a rule of the Web's authorities (CA/Browser Forum), which private ones do not follow");

/// The cases, by the beginning of their id. Every listed case must differ from the suite.
pub(super) const DEVIATIONS: &[(&str, Cause)] = &[
    ("pathlen::max-chain-depth-0-exhausted", DEPTH),
    ("pathlen::max-chain-depth-1-exhausted", DEPTH),
    ("pathlen::self-issued-certs-pathlen", SELF_ISSUED_LENGTH),
    ("pathlen::validation-ignores-pathlen-in-leaf", CA_LEAF),
    (
        "rfc5280::aki::cross-signed-root-missing-aki",
        Lenient(
            "pedantic; a configured root is one however it is signed, as cve-2024-0567 demands",
        ),
    ),
    ("rfc5280::aki::intermediate-missing-aki", KEY_IDENTIFIER),
    ("rfc5280::aki::leaf-missing-aki", KEY_IDENTIFIER),
    ("rfc5280::ca-as-leaf", CA_LEAF),
    (
        "rfc5280::nc::invalid-dnsname-leading-period",
        Lenient("widespread; read as 'below this name', as OpenSSL and Go do"),
    ),
    ("rfc5280::nc::nc-permits-email-domain", EMAIL),
    ("rfc5280::nc::nc-permits-email-exact", EMAIL),
    (
        "rfc5280::nc::nc-permits-email-literal-asterisk-exact-match",
        EMAIL,
    ),
    (
        "rfc5280::nc::nc-permits-email-literal-double-asterisk",
        EMAIL,
    ),
    ("rfc5280::nc::nc-permits-email-literal-mid-asterisk", EMAIL),
    ("rfc5280::nc::permitted-dn-match", DIRECTORY),
    (
        "rfc5280::nc::permitted-dns-match-noncritical",
        Lenient("the constraint is enforced whether it is marked critical or not"),
    ),
    ("rfc5280::nc::permitted-self-issued", SELF_ISSUED_NAME),
    (
        "rfc5280::root-non-critical-basic-constraints",
        Lenient("widespread among private roots; the extension is enforced all the same"),
    ),
    ("rfc5280::san::ip-in-dns", NAME),
    (
        "rfc5280::san::noncritical-with-empty-subject",
        Lenient("common issuers do not mark it; the names are read all the same"),
    ),
    ("rfc5280::san::underscore-dns", NAME),
    (
        "rfc5280::serial::",
        Lenient("RFC 5280 section 4.1.2.2 asks verifiers to bear with such serial numbers"),
    ),
    ("rfc5280::ski::intermediate-missing-ski", KEY_IDENTIFIER),
    ("rfc5280::ski::root-missing-ski", KEY_IDENTIFIER),
    ("webpki::aki::", KEY_IDENTIFIER),
    ("webpki::cn::", NAME),
    ("webpki::eku::", WEB),
    ("webpki::forbidden-rsa-", WEB),
    (
        "webpki::nc::intermediate-permitted-excluded-subtrees-",
        Lenient("a constraint that constrains nothing"),
    ),
    ("webpki::san::", NAME),
];

/// Returns the cause of a difference, if the case is in the list.
pub(super) fn cause(id: &str) -> Option<Cause> {
    DEVIATIONS
        .iter()
        .find(|(known, _)| id == *known || known.ends_with([':', '-']) && id.starts_with(known))
        .map(|(_, cause)| *cause)
}
