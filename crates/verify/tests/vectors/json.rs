//! Cases about strict JSON. The header and the payload must each be one object without duplicate
//! members at any depth. Unknown members are ignored.

use serde_json::{Value, json};

use super::case::{AUDIENCE, Case, ISSUER, SUBJECT, case, claims, claims_text, text};
use super::key::CURRENT;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = payloads();
    cases.extend(members());
    cases.extend(encodings());
    cases.extend(headers());
    cases.extend(accepted_forms());
    cases.extend(duplicates_in_payload());
    cases.extend(duplicates_in_header());
    cases.extend(unknown_members());
    cases.extend(other_spellings());
    cases
}

fn payloads() -> Vec<Case> {
    let good = claims_text();
    let mut truncated = good.clone();
    truncated.pop();
    [
        ("an empty payload", Vec::new()),
        ("a payload that is not JSON", b"not JSON".to_vec()),
        ("an array as payload", format!("[{good}]").into_bytes()),
        ("a text as payload", json!(good).to_string().into_bytes()),
        ("null as payload", b"null".to_vec()),
        ("a number as payload", b"1770000000".to_vec()),
        (
            "a payload without its last character",
            truncated.into_bytes(),
        ),
        (
            "a second object after the payload",
            format!("{good}{good}").into_bytes(),
        ),
        (
            "a letter after the payload",
            format!("{good}x").into_bytes(),
        ),
        ("a NUL after the payload", format!("{good}\0").into_bytes()),
    ]
    .into_iter()
    .map(|(name, payload)| {
        case("strict-json", name)
            .payload(payload)
            .refused("malformed")
    })
    .collect()
}

/// Returns cases with members that are not valid JSON.
fn members() -> Vec<Case> {
    [
        ("a comma before the closing brace", r#""x":{"y":1,}"#),
        ("a comma at the end of an array", r#""x":[1,]"#),
        ("a comment", "/* x */\"x\":1"),
        ("texts in apostrophes", "'x':'y'"),
        ("a member name without quotation marks", "x:1"),
        ("NaN", r#""x":NaN"#),
        ("Infinity", r#""x":-Infinity"#),
        ("a number with a leading zero", r#""x":01"#),
        ("a number with a plus sign", r#""x":+1"#),
        ("a number in hexadecimal", r#""x":0x1F"#),
        ("a number without digits after the point", r#""x":1."#),
        ("`True` instead of `true`", r#""x":True"#),
        ("a line feed in a text", "\"x\":\"a\nb\""),
        ("an escape that does not exist", r#""x":"\a""#),
        ("half a surrogate pair", r#""x":"\ud800""#),
    ]
    .into_iter()
    .map(|(name, member)| {
        case("strict-json", name)
            .first_members(member)
            .refused("malformed")
    })
    .collect()
}

fn encodings() -> Vec<Case> {
    let good = claims_text();
    let mut not_utf8 = good.replacen('{', r#"{"x":"~","#, 1).into_bytes();
    let mut overlong = good.replacen('{', r#"{"x":"~~","#, 1).into_bytes();
    replace(&mut not_utf8, b"~", b"\xff");
    replace(&mut overlong, b"~~", b"\xc0\xaf");
    [
        ("a byte order mark", format!("\u{feff}{good}").into_bytes()),
        ("a byte that is not UTF-8", not_utf8),
        ("an overlong UTF-8 sequence", overlong),
    ]
    .into_iter()
    .map(|(name, payload)| {
        case("strict-json", name)
            .payload(payload)
            .refused("malformed")
    })
    .collect()
}

fn headers() -> Vec<Case> {
    let good = text(&CURRENT.header());
    let mut not_utf8 = good.replacen('{', r#"{"x":"~","#, 1).into_bytes();
    replace(&mut not_utf8, b"~", b"\xff");
    [
        ("a header that is not JSON", b"not JSON".to_vec()),
        ("an array as header", format!("[{good}]").into_bytes()),
        ("null as header", b"null".to_vec()),
        (
            "a second object after the header",
            format!("{good}{{}}").into_bytes(),
        ),
        (
            "a comma at the end of the header",
            good.replace('}', ",}").into_bytes(),
        ),
        (
            "a byte order mark before the header",
            format!("\u{feff}{good}").into_bytes(),
        ),
        ("a byte that is not UTF-8 in the header", not_utf8),
    ]
    .into_iter()
    .map(|(name, header)| {
        case("strict-json", name)
            .assertions([CURRENT.token(&header, claims_text().as_bytes())])
            .refused("malformed")
    })
    .collect()
}

fn accepted_forms() -> Vec<Case> {
    let rule = "strict-json";
    let good = claims_text();
    let spaced = format!(
        " \t\r\n{}\n ",
        good.replace("\":", "\" :\t").replace(",\"", "\n,\r \"")
    );
    let reversed = format!(
        r#"{{"typ":"countersign+jwt","kid":"{}","alg":"ES256"}}"#,
        CURRENT.key_id()
    );
    let nested = format!("{}1{}", "[".repeat(32), "]".repeat(32));
    vec![
        case(rule, "white space between all tokens")
            .payload(spaced)
            .accepted(),
        case(rule, "white space around the header and its members")
            .assertions([CURRENT.token(
                format!(" {}\n", text(&CURRENT.header()).replace(',', " , ")).as_bytes(),
                good.as_bytes(),
            )])
            .accepted(),
        case(rule, "another order of the header's members")
            .assertions([CURRENT.token(reversed.as_bytes(), good.as_bytes())])
            .accepted(),
        case(rule, "escapes in texts")
            .replaced(
                r#""https://orders.example.org/orders/7""#,
                r#""https:\/\/orders\u002eexample.org\/\u006Frders\/7""#,
            )
            .accepted(),
        case(rule, "escapes in member names")
            .replaced(r#""htu":"#, r#""\u0068tu":"#)
            .accepted(),
        case(rule, "a surrogate pair, and the same character in UTF-8")
            .first_members("\"x\":\"\\ud83d\\udd11\",\"y\":\"🔑\"")
            .accepted(),
        case(rule, "an unknown member with 32 nested arrays")
            .first_members(&format!(r#""x":{nested}"#))
            .accepted(),
        case(rule, "unknown members with numbers of all forms")
            .first_members(r#""x":[0,-1,1.5,1e3,2E-2,12345678901234567890123]"#)
            .accepted(),
    ]
}

/// Returns the claims with a `token`, and the same claims as JSON text.
fn with_token() -> (Value, String) {
    let mut claims = claims();
    claims["token"] =
        json!({"iss": "https://idp.example.org", "sub": "alice", "scope": "orders:read"});
    let written = text(&claims);
    (claims, written)
}

/// Returns a refused case in which `to` replaces the text `from` in the claims. The replacement
/// creates a duplicate member in a nested object.
fn inside(name: &str, from: &str, to: &str) -> Case {
    let (_, written) = with_token();
    assert_eq!(written.matches(from).count(), 1, "{from}");
    case("duplicate-members", name)
        .payload(written.replace(from, to))
        .refused("malformed")
}

fn duplicates_in_payload() -> Vec<Case> {
    let rule = "duplicate-members";
    let first =
        |name: &str, members: &str| case(rule, name).first_members(members).refused("malformed");
    let (with_token, _) = with_token();
    let mut last = claims_text();
    last.pop();
    vec![
        first(
            "`sub` twice, the first another",
            r#""sub":"spiffe://example.org/evil""#,
        ),
        case(rule, "`sub` twice, the last another")
            .payload(format!(r#"{last},"sub":"spiffe://example.org/evil"}}"#))
            .refused("malformed"),
        first(
            "`sub` twice, with the same value",
            &format!(r#""sub":"{SUBJECT}""#),
        ),
        first(
            "`sub` twice, once with an escape",
            r#""s\u0075b":"spiffe://example.org/evil""#,
        ),
        first("`aud` twice", &format!(r#""aud":"{AUDIENCE}""#)),
        first("`iss` twice", &format!(r#""iss":"{ISSUER}""#)),
        first("`exp` twice", r#""exp":1770000030"#),
        first("`iat` twice", r#""iat":1770000000"#),
        first(
            "`htu` twice",
            r#""htu":"https://orders.example.org/orders/8""#,
        ),
        first("`authn` twice", r#""authn":{}"#),
        first("an unknown member twice", r#""x":1,"x":2"#),
        first("an empty member name twice", r#""":1,"":2"#),
        first("a duplicate in an unknown object", r#""x":{"y":1,"y":1}"#),
        first(
            "a duplicate in an object in an array",
            r#""x":[0,{"y":1,"z":2,"y":3}]"#,
        ),
        first(
            "a duplicate at depth 8",
            r#""x":{"x":{"x":{"x":{"x":{"x":[{"y":1,"y":2}]}}}}}"#,
        ),
        first(
            "a duplicate with an escaped line feed",
            r#""x":{"\n":1,"\u000a":2}"#,
        ),
        inside(
            "a duplicate in `authn`",
            r#""resumed":false"#,
            r#""resumed":false,"resumed":true"#,
        ),
        inside(
            "a duplicate in `client_cert`",
            r#""serial":"0a1b2c""#,
            r#""serial":"0a1b2c","serial":"ff""#,
        ),
        inside(
            "a duplicate in `client_cert.sans`",
            r#""dns":[]"#,
            r#""dns":[],"dns":["evil"]"#,
        ),
        inside(
            "a duplicate in `token`",
            r#""sub":"alice""#,
            r#""sub":"alice","sub":"mallory""#,
        ),
        case(rule, "the same name in different objects")
            .claims(|claims| *claims = with_token)
            .accepted(),
        case(rule, "the same name in two objects of an array")
            .first_members(r#""x":[{"y":1},{"y":1}]"#)
            .accepted(),
    ]
}

fn duplicates_in_header() -> Vec<Case> {
    let good = text(&CURRENT.header());
    [
        ("`alg` twice in the header", r#""alg":"none""#.to_owned()),
        (
            "`alg` twice in the header, with the same value",
            r#""alg":"ES256""#.to_owned(),
        ),
        (
            "`kid` twice in the header",
            format!(r#""kid":"{}""#, CURRENT.key_id()),
        ),
        ("`typ` twice in the header", r#""typ":"JWT""#.to_owned()),
        (
            "`typ` twice in the header, once with an escape",
            r#""t\u0079p":"JWT""#.to_owned(),
        ),
        (
            "a duplicate in an object of the header",
            r#""x":{"y":1,"y":2}"#.to_owned(),
        ),
    ]
    .into_iter()
    .map(|(name, members)| {
        let header = good.replacen('{', &format!("{{{members},"), 1);
        case("duplicate-members", name)
            .assertions([CURRENT.token(header.as_bytes(), claims_text().as_bytes())])
            .refused("malformed")
    })
    .collect()
}

fn unknown_members() -> Vec<Case> {
    let rule = "unknown-members";
    vec![
        case(rule, "unknown claims of all types")
            .with_unknown(|claims| {
                claims["x"] = json!({"y": [1, "2", null, true]});
                claims["z"] = json!(null);
            })
            .accepted(),
        case(rule, "an unknown member in `authn`")
            .with_unknown(|claims| claims["authn"]["level"] = json!(3))
            .accepted(),
        case(rule, "an unknown member in `client_cert`")
            .with_unknown(|claims| claims["client_cert"]["subject"] = json!("CN=x"))
            .accepted(),
        case(rule, "an unknown type in `client_cert.sans`")
            .with_unknown(|claims| claims["client_cert"]["sans"]["other"] = json!(["1.2.3"]))
            .accepted(),
        case(rule, "an unknown member in the header")
            .header_member("x", "y")
            .accepted(),
        case(rule, "the member `__proto__`")
            .with_unknown(|claims| {
                claims["__proto__"] = json!({"sub": "spiffe://example.org/evil", "htq": "x"});
            })
            .accepted(),
        case(rule, "the members `constructor` and `toString`")
            .with_unknown(|claims| {
                claims["constructor"] = json!({"prototype": {}});
                claims["toString"] = json!("x");
            })
            .accepted(),
    ]
}

/// Returns cases about the rule that member names are case-sensitive: a name in another spelling is
/// an unknown member.
fn other_spellings() -> Vec<Case> {
    let rule = "unknown-members";
    let missing = |name: &str, claim: &str, other: &str, code: &str| {
        case(rule, name)
            .replaced(&format!(r#""{claim}":"#), &format!(r#""{other}":"#))
            .refused(code)
    };
    vec![
        case(rule, "`Sub` and `SUB` beside `sub`")
            .with_unknown(|claims| {
                claims["SUB"] = json!("spiffe://example.org/evil");
                claims["Sub"] = json!(7);
            })
            .accepted(),
        case(rule, "`Sub` after `sub`")
            .payload(claims_text().replace(
                &format!(r#""sub":"{SUBJECT}""#),
                &format!(r#""sub":"{SUBJECT}","Sub":"spiffe://example.org/evil""#),
            ))
            .accepted(),
        case(rule, "`Exp`, `AUD` and `Iss` beside the claims")
            .with_unknown(|claims| {
                claims["Exp"] = json!(1);
                claims["AUD"] = json!(["payments"]);
                claims["Iss"] = json!("https://evil.example");
            })
            .accepted(),
        case(rule, "`HTQ` without `htq` and without a query")
            .with_unknown(|claims| claims["HTQ"] = json!("x"))
            .accepted(),
        case(rule, "`ALG` beside `alg` in the header")
            .header_member("ALG", "none")
            .accepted(),
        missing("`Exp` instead of `exp`", "exp", "Exp", "claims"),
        missing("`Iat` instead of `iat`", "iat", "IAT", "claims"),
        missing("`AUD` instead of `aud`", "aud", "AUD", "claims"),
        missing("`Authn` instead of `authn`", "authn", "Authn", "claims"),
        missing("`ſub` (long s) instead of `sub`", "sub", "ſub", "claims"),
        missing("`HTM` instead of `htm`", "htm", "HTM", "partial-binding"),
        missing("`Jti` instead of `jti`", "jti", "Jti", "partial-binding"),
    ]
}

fn replace(octets: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    let at = octets
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    octets.splice(at..at + from.len(), to.iter().copied());
}
