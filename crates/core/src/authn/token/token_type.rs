//! `TokenType`: the `typ` of a token.

/// The supported values of a token's `typ` (RFC 8725 section 3.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// `at+jwt` or `application/at+jwt` (RFC 9068 section 4). Such a token must
    /// have every claim that RFC 9068 section 2.2 requires.
    AccessToken,
    /// `JWT`. Identity tokens may have this type too.
    Jwt,
    /// The token has no `typ`.
    Untyped,
}

impl TokenType {
    /// Reads the `typ` of a header. Returns `None` if the type is not one of an access token. Media
    /// types are compared case-insensitively (RFC 7515 section 4.1.9).
    #[must_use]
    pub fn of_header(token_type: Option<&str>) -> Option<Self> {
        let Some(text) = token_type else {
            return Some(Self::Untyped);
        };
        let is = |other: &str| text.eq_ignore_ascii_case(other);
        if is("at+jwt") || is("application/at+jwt") {
            Some(Self::AccessToken)
        } else if is("JWT") || is("application/jwt") {
            Some(Self::Jwt)
        } else {
            None
        }
    }
}
