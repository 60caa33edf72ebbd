//! `countersign assertion`. Another JOSE library signs the assertions with keys that
//! `countersign keys` made.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use super::Keys;
use crate::support::{ISSUER, Run, base64url, countersign, now};

const SUBJECT: &str = "spiffe://example.org/ns/shop/sa/checkout";

/// A directory with one key, a file with its key set, and the current time.
struct Bench {
    keys: Keys,
    kid: String,
    algorithm: Algorithm,
    jwks: PathBuf,
    now: u64,
}

fn hash(octets: &[u8]) -> String {
    base64url(&countersign_testkit::sha256(octets))
}

impl Bench {
    fn new(algorithm: Algorithm) -> Self {
        let name = match algorithm {
            Algorithm::ES256 => "ES256",
            _ => "EdDSA",
        };
        let (keys, kid) = Keys::with_one(name);
        let jwks = keys.path.join("jwks.json");
        std::fs::write(&jwks, keys.run(&["jwks"]).done().stdout).unwrap();
        Self {
            keys,
            kid,
            algorithm,
            jwks,
            now: now(),
        }
    }

    fn claims(&self) -> Value {
        json!({
            "iss": ISSUER, "aud": "orders", "sub": SUBJECT,
            "iat": self.now, "exp": self.now + 60,
            "jti": "AAAAAAAAAAAAAAAAAAAAAA", "txn": "t",
            "htm": "GET", "htu": "https://orders.example.org/orders/7", "htq": hash(b"full=1"),
            "client_cert": {
                "x5t#S256": hash(b""), "serial": "0a", "issuer": "CN=CA",
                "not_before": self.now - 60, "not_after": self.now + 3600,
                "sans": {"uri": [SUBJECT], "dns": [], "email": [], "ip": []},
                "anchor": hash(b""),
            },
            "authn": {
                "methods": ["certificate"], "trust_domain": "example.org",
                "revocation": "checked", "at": self.now, "resumed": false,
            },
        })
    }

    fn sign_as(&self, typ: &str, claims: &Value) -> String {
        let pem = std::fs::read(self.keys.key_file(&self.kid)).unwrap();
        let key = match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
            _ => EncodingKey::from_ed_pem(&pem),
        };
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        header.typ = Some(typ.to_owned());
        jsonwebtoken::encode(&header, claims, &key.unwrap()).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as("countersign+jwt", claims)
    }

    /// Runs `assertion verify` with the token on standard input.
    fn verify(&self, token: &str, more: &[&str]) -> Run {
        let jwks = self.jwks.to_str().unwrap();
        let fixed = [
            "assertion",
            "verify",
            "-",
            "--jwks",
            jwks,
            "--issuer",
            ISSUER,
        ];
        countersign(&[&fixed, more].concat(), token)
    }
}

const ORDERS: [&str; 2] = ["--audience", "orders"];
const REQUEST: [&str; 6] = [
    "--audience",
    "orders",
    "--method",
    "GET",
    "--url",
    "https://orders.example.org/orders/7?full=1",
];

#[test]
fn a_foreign_library_and_the_program_agree_on_keys_and_signatures() {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
        let bench = Bench::new(algorithm);
        let token = bench.sign(&bench.claims());
        let run = bench
            .verify(&token, &[&REQUEST[..], &["--json"]].concat())
            .done();
        assert_eq!(run.json()["valid"], true);
        assert_eq!(run.json()["not_compared"], json!([]));
        assert_eq!(run.json()["assertion"]["sub"], SUBJECT);
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(bench.keys.jwks()).unwrap();
        let jwk = set.find(&bench.kid).unwrap();
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&["orders"]);
        validation.set_issuer(&[ISSUER]);
        let key = DecodingKey::from_jwk(jwk).unwrap();
        jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
    }
}

#[test]
fn without_the_request_it_says_what_was_not_compared() {
    let bench = Bench::new(Algorithm::ES256);
    let token = bench.sign(&bench.claims());
    let run = bench.verify(&token, &ORDERS).done();
    assert!(run.stdout.contains(&format!("valid: {SUBJECT} for orders")));
    assert!(
        run.stdout
            .contains("Not compared with a request: method, url, query")
    );
    let file = bench.keys.path.join("token.txt");
    std::fs::write(&file, format!("{token}\r\n")).unwrap();
    let jwks = std::fs::read_to_string(&bench.jwks).unwrap();
    let arguments = ["assertion", "verify", file.to_str().unwrap(), "--jwks", "-"];
    let arguments = [&arguments[..], &["--issuer", ISSUER], &ORDERS].concat();
    countersign(&arguments, &jwks).done();
}

#[test]
fn what_does_not_fit_is_refused_with_its_code() {
    let bench = Bench::new(Algorithm::ES256);
    let token = bench.sign(&bench.claims());
    let expect = |token: &str, more: &[&str], code: &str| {
        bench.verify(token, more).refused(3, code);
        let run = bench
            .verify(token, &[more, &["--json"]].concat())
            .ended(3, code);
        assert_eq!(run.json()["valid"], false);
        assert_eq!(run.json()["code"], code);
    };
    expect(&token, &["--audience", "payments"], "assertion-audience");
    let asked = |method, url| [&ORDERS[..], &["--method", method, "--url", url]].concat();
    for (method, url, code) in [
        (
            "POST",
            "https://orders.example.org/orders/7?full=1",
            "assertion-method",
        ),
        (
            "GET",
            "https://orders.example.org/orders/7",
            "assertion-query",
        ),
        (
            "GET",
            "https://orders.example.org/orders/8?full=1",
            "assertion-path",
        ),
        (
            "GET",
            "https://a.example.org/orders/7?full=1",
            "assertion-authority",
        ),
    ] {
        expect(&token, &asked(method, url), code);
    }
    let altered = |change: &dyn Fn(&mut Value)| {
        let mut claims = bench.claims();
        change(&mut claims);
        bench.sign(&claims)
    };
    let expired = altered(&|claims| {
        claims["iat"] = json!(bench.now - 120);
        claims["exp"] = json!(bench.now - 60);
    });
    expect(&expired, &ORDERS, "assertion-expired");
    expect(
        &altered(&|claims| claims["iss"] = json!("https://b")),
        &ORDERS,
        "assertion-issuer",
    );
    expect(
        &bench.sign_as("JWT", &bench.claims()),
        &ORDERS,
        "assertion-type",
    );
    let stranger = Bench::new(Algorithm::ES256);
    expect(
        &stranger.sign(&bench.claims()),
        &ORDERS,
        "assertion-unknown-key",
    );
    let (signed, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", "A".repeat(86));
    expect(&forged, &ORDERS, "assertion-signature");
    expect("rubbish", &ORDERS, "assertion-malformed");
    expect("\u{1f980}.a.b", &ORDERS, "assertion-malformed");
}

#[test]
fn assertions_about_a_caller_need_to_be_allowed() {
    let bench = Bench::new(Algorithm::EdDSA);
    let mut claims = bench.claims();
    for name in ["jti", "txn", "htm", "htu", "htq"] {
        claims.as_object_mut().unwrap().remove(name);
    }
    let token = bench.sign(&claims);
    bench
        .verify(&token, &ORDERS)
        .refused(3, "assertion-not-request-bound");
    let allowed = [&ORDERS[..], &["--allow-caller-binding"]].concat();
    let run = bench.verify(&token, &allowed).done();
    assert!(run.stdout.contains("bound to no request"));
}

#[test]
fn wrong_usage_and_a_bad_assertion_have_different_exit_codes() {
    let bench = Bench::new(Algorithm::ES256);
    let token = bench.sign(&bench.claims());
    bench.verify(&token, &[]).refused(2, "--audience");
    bench
        .verify(&token, &["--audience", ""])
        .refused(2, "audience");
    let more = |extra: &[&'static str]| [&ORDERS[..], extra].concat();
    bench
        .verify(&token, &more(&["--method", "GET"]))
        .refused(2, "--url");
    bench
        .verify(&token, &more(&["--method", "GET", "--url", "orders"]))
        .refused(2, "--url must be like");
    bench
        .verify(&token, &more(&["--skew", "31s"]))
        .refused(2, "30 s");
    bench
        .verify(&token, &more(&["--jwks-url", "https://a/"]))
        .refused(2, "--jwks");
    bench.verify("", &ORDERS).refused(1, "no assertion");
    let without = ["assertion", "verify", "-", "--issuer", ISSUER];
    countersign(&[&without[..], &ORDERS].concat(), &token).refused(2, "--jwks");
    let both = [
        "assertion",
        "verify",
        "-",
        "--jwks",
        "-",
        "--issuer",
        ISSUER,
    ];
    countersign(&[&both[..], &ORDERS].concat(), &token).refused(2, "standard input");
    let missing = ["assertion", "verify", "-", "--jwks", "/nowhere/jwks.json"];
    countersign(
        &[&missing[..], &["--issuer", ISSUER], &ORDERS].concat(),
        &token,
    )
    .refused(2, "/nowhere/jwks.json");
    std::fs::write(&bench.jwks, "{\"keys\":[]}").unwrap();
    bench.verify(&token, &ORDERS).refused(2, "no usable key");
}

#[test]
fn the_key_set_can_be_fetched_from_loopback() {
    let bench = Bench::new(Algorithm::ES256);
    let token = bench.sign(&bench.claims());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/.well-known/jwks.json",
        listener.local_addr().unwrap()
    );
    let body = std::fs::read_to_string(&bench.jwks).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
    });
    let from = |url: &str| {
        let arguments = [
            "assertion",
            "verify",
            "-",
            "--jwks-url",
            url,
            "--issuer",
            ISSUER,
        ];
        countersign(&[&arguments, &REQUEST[..]].concat(), &token)
    };
    from(&url).done();
    server.join().unwrap();
    from(&url).refused(1, "cannot fetch the key set");
    from("http://keys.example.org/").refused(2, "https");
}

#[test]
fn inspecting_shows_everything_and_believes_nothing() {
    let bench = Bench::new(Algorithm::ES256);
    let mut claims = bench.claims();
    claims["sub"] = json!("spiffe://example.org/\u{1b}[2J\u{202e}x");
    let token = bench.sign(&claims);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}\n", "A".repeat(86));
    let run = countersign(&["assertion", "inspect", "-"], &forged).done();
    assert!(run.stdout.starts_with("NOT VERIFIED"));
    assert!(run.stdout.contains(&bench.kid));
    assert!(
        run.stdout.contains(&format!("exp: {}  20", bench.now + 60)),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout
            .contains("htu: https://orders.example.org/orders/7")
    );
    assert!(!run.stdout.contains(['\u{1b}', '\u{202e}']));
    let run = countersign(&["assertion", "inspect", "--json"], &forged).done();
    assert_eq!(run.json()["verified"], false);
    assert_eq!(run.json()["claims"], claims);
    assert_eq!(run.json()["header"]["typ"], "countersign+jwt");
    countersign(&["assertion", "inspect"], "rubbish").refused(3, "assertion-malformed");
    countersign(&["assertion", "inspect", "/nowhere"], "").refused(2, "/nowhere");
}
