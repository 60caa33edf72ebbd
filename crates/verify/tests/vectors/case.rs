//! `Case`: one case of the test vectors. `Draft`: builds a case.
//!
//! Each draft begins with an assertion that is accepted. The methods of `Draft` change the
//! assertion, the request or the settings. The last method states the result that
//! `docs/assertion.md` requires.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::key::{CURRENT, Key};

pub(super) const ISSUER: &str = "https://gateway.example.org:9080";
pub(super) const AUDIENCE: &str = "orders";
pub(super) const HOST: &str = "orders.example.org";
pub(super) const SUBJECT: &str = "spiffe://example.org/ns/shop/sa/checkout";
/// The `iat` of most assertions. These assertions expire 30 s later.
pub(super) const ISSUED: u64 = 1_770_000_000;
/// The time at which most assertions are verified.
pub(super) const NOW: u64 = ISSUED + 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) rule: String,
    pub(super) options: Options,
    pub(super) key_set: String,
    pub(super) now: u64,
    pub(super) assertions: Vec<String>,
    pub(super) request: Request,
    pub(super) expect: Expect,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) authority: Option<String>,
    pub(super) path_prefix: Option<String>,
    pub(super) skew: u64,
    pub(super) allow_caller_binding: bool,
    pub(super) require_body_binding: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) hosts: Vec<String>,
    pub(super) target: String,
    /// The body in base64url. `None` if the verifier does not get the body.
    pub(super) body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Expect {
    Accepted {
        sub: String,
        trust_domain: Option<String>,
        request_bound: bool,
        claims: Value,
    },
    Refused {
        code: String,
    },
}

/// A case without an expected result.
pub(super) struct Draft {
    case: Case,
    signer: Key,
    header: Value,
    claims: Value,
    payload: Option<Vec<u8>>,
    assertions: Option<Vec<String>>,
}

/// Creates a draft of a case about `rule`: a valid assertion for `GET /orders/7`.
pub(super) fn case(rule: &str, name: impl Into<String>) -> Draft {
    Draft {
        case: Case {
            name: name.into(),
            rule: rule.to_owned(),
            options: Options {
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                authority: None,
                path_prefix: None,
                skew: 10,
                allow_caller_binding: false,
                require_body_binding: false,
            },
            key_set: "gateway".to_owned(),
            now: NOW,
            assertions: Vec::new(),
            request: Request {
                method: "GET".to_owned(),
                hosts: vec![HOST.to_owned()],
                target: "/orders/7".to_owned(),
                body: None,
            },
            expect: Expect::Refused {
                code: String::new(),
            },
        },
        signer: CURRENT,
        header: CURRENT.header(),
        claims: claims(),
        payload: None,
        assertions: None,
    }
}

/// Returns the claims for `GET https://orders.example.org/orders/7`.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": SUBJECT,
        "iat": ISSUED,
        "exp": ISSUED + 30,
        "jti": "dQ3mGx9eS1mJ7lB2h0Qy3A",
        "htm": "GET",
        "htu": "https://orders.example.org/orders/7",
        "client_cert": {
            "x5t#S256": "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0",
            "serial": "0a1b2c",
            "issuer": "CN=Example Issuing CA",
            "not_before": ISSUED - 300,
            "not_after": ISSUED + 86_100,
            "sans": {"uri": [SUBJECT], "dns": [], "email": [], "ip": []},
            "anchor": "v68ffgcPn6jdYpBfFY2nP4ShE2Yk-6_Mk5PI9yh6aes"
        },
        "authn": {
            "methods": ["certificate"],
            "trust_domain": "example.org",
            "revocation": "checked",
            "at": ISSUED,
            "resumed": false
        }
    })
}

/// Returns the default claims as JSON text.
pub(super) fn claims_text() -> String {
    text(&claims())
}

/// Returns JSON text with sorted members. The order does not depend on the features of
/// `serde_json`.
pub(super) fn text(value: &Value) -> String {
    sorted(value).to_string()
}

pub(super) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            names
                .into_iter()
                .map(|name| (name.clone(), sorted(&members[name])))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

impl Draft {
    pub(super) fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.case.options);
        self
    }

    pub(super) fn authority(self, authority: &str) -> Self {
        self.options(|options| options.authority = Some(authority.to_owned()))
    }

    pub(super) fn prefix(self, prefix: &str) -> Self {
        self.options(|options| options.path_prefix = Some(prefix.to_owned()))
    }

    pub(super) fn skew(self, seconds: u64) -> Self {
        self.options(|options| options.skew = seconds)
    }

    pub(super) fn allow_caller_binding(self) -> Self {
        self.options(|options| options.allow_caller_binding = true)
    }

    pub(super) fn require_body_binding(self) -> Self {
        self.options(|options| options.require_body_binding = true)
    }

    pub(super) fn key_set(mut self, name: &str) -> Self {
        name.clone_into(&mut self.case.key_set);
        self
    }

    pub(super) fn now(mut self, now: u64) -> Self {
        self.case.now = now;
        self
    }

    /// Makes `key` sign the assertion, and sets the header for this key.
    pub(super) fn signer(mut self, key: Key) -> Self {
        self.signer = key;
        self.header = key.header();
        self
    }

    pub(super) fn header(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.header);
        self
    }

    /// Changes one member of the header.
    pub(super) fn header_member(self, name: &str, value: impl Into<Value>) -> Self {
        self.header(|header| header[name] = value.into())
    }

    /// Changes the signed claims and the expected claims.
    pub(super) fn claims(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.claims);
        self
    }

    /// Changes one claim, in the signed and in the expected claims.
    pub(super) fn claim(self, name: &str, value: impl Into<Value>) -> Self {
        self.claims(|claims| claims[name] = value.into())
    }

    pub(super) fn without(mut self, names: &[&str]) -> Self {
        for name in names {
            let removed = self.claims.as_object_mut().unwrap().remove(*name);
            assert!(removed.is_some(), "{name}");
        }
        self
    }

    /// Makes the assertion caller-bound.
    pub(super) fn caller_bound(self) -> Self {
        self.without(&["jti", "htm", "htu"])
    }

    /// Signs `payload` instead of the claims.
    pub(super) fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Adds members to the signed claims, but not to the expected claims. Packages must ignore
    /// these members.
    pub(super) fn with_unknown(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut signed = self.claims.clone();
        change(&mut signed);
        self.payload = Some(text(&signed).into_bytes());
        self
    }

    /// Replaces the text `from` with `to` in the signed JSON text of the claims.
    pub(super) fn replaced(self, from: &str, to: &str) -> Self {
        let written = text(&self.claims);
        assert_eq!(written.matches(from).count(), 1, "{from} in {written}");
        self.payload(written.replace(from, to))
    }

    /// Inserts `members` at the beginning of the payload, before the claims.
    pub(super) fn first_members(self, members: &str) -> Self {
        let written = text(&self.claims);
        self.payload(written.replacen('{', &format!("{{{members},"), 1))
    }

    /// Sets the values of the `Countersign-Assertion` field lines. By default, there is one field
    /// line with the signed assertion.
    pub(super) fn assertions<T: Into<String>>(
        mut self,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        self.assertions = Some(values.into_iter().map(Into::into).collect());
        self
    }

    /// Changes the assertion after signing.
    pub(super) fn token(self, change: impl FnOnce(&str) -> String) -> Self {
        let token = change(&self.signed());
        self.assertions([token])
    }

    /// Changes the bytes of the signature.
    pub(super) fn signature(self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        self.token(|token| {
            let (input, signature) = token.rsplit_once('.').unwrap();
            let signature = countersign_verify::jose::base64url_decode(signature, "it").unwrap();
            let changed = countersign_verify::jose::base64url_encode(&change(signature));
            format!("{input}.{changed}")
        })
    }

    pub(super) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.case.request.method);
        self
    }

    pub(super) fn hosts(mut self, hosts: &[&str]) -> Self {
        self.case.request.hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        self
    }

    pub(super) fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.case.request.target);
        self
    }

    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.case.request.body = Some(countersign_verify::jose::base64url_encode(body));
        self
    }

    fn signed(&self) -> String {
        let payload = self
            .payload
            .clone()
            .unwrap_or_else(|| text(&self.claims).into_bytes());
        self.signer.token(text(&self.header).as_bytes(), &payload)
    }

    fn finished(mut self, expect: Expect) -> Case {
        self.case.assertions = match self.assertions.take() {
            Some(values) => values,
            None => vec![self.signed()],
        };
        self.case.expect = expect;
        self.case
    }

    /// Finishes the case: the verifier must accept the assertion and return the claims.
    pub(super) fn accepted(self) -> Case {
        let claims = sorted(&self.claims);
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let expect = Expect::Accepted {
            sub: text_of(&claims["sub"]).unwrap(),
            trust_domain: text_of(&claims["authn"]["trust_domain"]),
            request_bound: claims["htu"].is_string(),
            claims,
        };
        self.finished(expect)
    }

    /// Finishes the case: the verifier must refuse the assertion with the error code
    /// `assertion-CODE`.
    pub(super) fn refused(self, code: &str) -> Case {
        let code = format!("assertion-{code}");
        self.finished(Expect::Refused { code })
    }
}
