//! `[[token_issuer]]`: issuers whose tokens are accepted, and how the tokens are checked.

use std::sync::Arc;
use std::time::Duration;

use countersign_verify::jose::{Jwk, JwkSet};
use rustls::RootCertStore;

use super::bounds;
use super::context::{Context, names};
use super::credentials::credentials;
use super::pem::{self, material};
use crate::authn::token::binding::CertificateBinding;
use crate::authn::token::cache::CacheSettings;
use crate::authn::token::claims::{ClaimRules, DEFAULT_SKEW};
use crate::authn::token::introspection::{ClientAuthentication, Introspector};
use crate::authn::token::issuer::{Provenance, TokenCheck, TokenIssuer};
use crate::authn::token::jwks::{IssuerKeys, KeySettings};
use crate::authn::token::jwt::{ALL_ALGORITHMS, TokenRules};
use crate::authn::token::key_location::KeyLocation;
use crate::authn::token::token_type::TokenType;
use crate::crypto::{self, SignatureScheme, SigningKeyPair};
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::{IntrospectionSection, TokenIssuerSection};
use crate::document::value::{At, ClientMeans, Field, TokenFormat, Words as _};
use crate::http_client::{ClientSettings, HttpClient, checked_url};
use crate::identity::caller::{PLAIN_NAME_FORM, is_plain_name};
use crate::identity::text::shell_with;
use crate::material::units::UnitKey;
use crate::secret::Secret;
use crate::tls::CertificateOwner;

/// Default timeout of a request to an issuer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// Minimum length in bytes of the secret with which the gateway authenticates to an issuer.
const MIN_SECRET: usize = 16;

/// What was built from one `[[token_issuer]]`, and the facts about it that routes need. A field is
/// `None` if it could not be built or is not configured.
pub(super) struct IssuerPart {
    pub(super) name: Option<At<String>>,
    pub(super) issuer: Option<Arc<TokenIssuer>>,
    pub(super) url: Option<String>,
    pub(super) audiences: Vec<String>,
    pub(super) binding: CertificateBinding,
    pub(super) introspects: bool,
}

/// Builds the token issuers of all `[[token_issuer]]` sections.
pub(super) fn issuers(document: &Document, context: &mut Context<'_>) -> Vec<IssuerPart> {
    let sections = &document.token_issuers;
    context.unique("token issuer", names(sections.iter().map(|s| &s.name)));
    sections
        .iter()
        .map(|section| IssuerPart {
            name: section.name.at().cloned(),
            issuer: issuer(section, context),
            url: section.issuer.value().cloned(),
            audiences: section.audience.values(),
            binding: section.certificate_binding.or(CertificateBinding::Required),
            introspects: !section.introspection.is_absent(),
        })
        .collect()
}

fn issuer(section: &TokenIssuerSection, context: &mut Context<'_>) -> Option<Arc<TokenIssuer>> {
    let name = section.name.at()?;
    if !is_plain_name(&name.value) {
        context.error(
            Diagnostic::new(name.place.clone(), "this cannot name a token issuer").help(format!(
                "write {PLAIN_NAME_FORM}: it becomes part of callers' names"
            )),
        );
    }
    let rules = rules(section, context);
    let mut timeout = DEFAULT_TIMEOUT;
    bounds::set_time(&section.timeout, &mut timeout, context);
    let roots = roots(section, context);
    let introspector = introspector(section, roots.as_ref(), timeout, context);
    let format = section.format.or(TokenFormat::Jwt);
    check_source(section, format, context);
    let provenance_of_rules = format!("{:?}|{:?}|{:?}", name.value, rules, introspector);
    let (check, provenance) = match format {
        TokenFormat::Opaque => {
            let check = TokenCheck::Introspection {
                introspector: introspector??,
                rules: rules?.claims,
            };
            (
                check,
                Provenance {
                    rules: hash(&[provenance_of_rules.as_bytes()]),
                    keys: [0; 32],
                },
            )
        }
        TokenFormat::Jwt => {
            let (keys, provenance) = keys(section, roots?, timeout, &provenance_of_rules, context)?;
            let check = TokenCheck::Jwt {
                keys,
                rules: rules?,
                introspector: introspector?,
            };
            (check, provenance)
        }
    };
    let issuer = TokenIssuer::new(name.value.clone(), check, cache(section, context))
        .made_from(provenance)
        .required_at_start(section.required_at_start.or(false));
    Some(Arc::new(issuer))
}

fn rules(section: &TokenIssuerSection, context: &mut Context<'_>) -> Option<TokenRules> {
    let binding = section.certificate_binding.or(CertificateBinding::Required);
    if let Some(at) = section.certificate_binding.at()
        && at.value == CertificateBinding::Off
        && !section.allow_unbound.or(false)
    {
        context.error(
            Diagnostic::new(
                at.place.clone(),
                "tokens that are not bound to a certificate can be used by whoever steals them",
            )
            .help("add allow_unbound = true where the issuer cannot bind tokens"),
        );
    }
    let mut skew = Duration::from_secs(DEFAULT_SKEW);
    bounds::set_time_within(
        &section.skew,
        Duration::ZERO..=Duration::from_secs(300),
        &mut skew,
        context,
    );
    let or_all = |written: Vec<_>| {
        if written.is_empty() {
            ALL_ALGORITHMS.to_vec()
        } else {
            written
        }
    };
    let types = section.types.values();
    Some(TokenRules {
        claims: ClaimRules {
            issuer: section.issuer.value()?.clone(),
            audiences: match section.audience.values() {
                audiences if audiences.is_empty() => return None,
                audiences => audiences,
            },
            binding,
            skew: skew.as_secs(),
            keep: section.forward_claims.values(),
        },
        algorithms: or_all(section.algorithms.values()),
        types: if types.is_empty() {
            vec![TokenType::AccessToken]
        } else {
            types
        },
    })
}

fn cache(section: &TokenIssuerSection, context: &mut Context<'_>) -> CacheSettings {
    let mut settings = CacheSettings::default();
    for (field, seconds) in [
        (&section.remember_accepted, &mut settings.positive),
        (&section.remember_refused, &mut settings.negative),
    ] {
        let mut time = Duration::from_secs(*seconds);
        let max = Duration::from_secs(3600);
        bounds::set_time_within(field, Duration::ZERO..=max, &mut time, context);
        *seconds = time.as_secs();
    }
    if let Some(size) = bounds::size(&section.cache_size, 64 * 1024..=1 << 32, context) {
        settings.bytes = size;
    }
    settings
}

/// Checks where the keys of an issuer come from. For JWTs, at most one of `jwks_file` and
/// `jwks_uri` is allowed. For opaque tokens, neither is allowed, and an introspection endpoint is
/// required.
fn check_source(section: &TokenIssuerSection, format: TokenFormat, context: &mut Context<'_>) {
    let places: Vec<(&str, &At<String>)> = [
        ("jwks_file", section.jwks_file.at()),
        ("jwks_uri", section.jwks_uri.at()),
    ]
    .into_iter()
    .filter_map(|(key, at)| at.map(|at| (key, at)))
    .collect();
    match (format, places.as_slice()) {
        (TokenFormat::Jwt, [(_, first), (_, second)]) => context.error(
            Diagnostic::new(second.place.clone(), "keys come from one place")
                .also(first.place.clone(), "the other one")
                .help("remove jwks_file or jwks_uri; without both the issuer's metadata say where"),
        ),
        (TokenFormat::Opaque, [(key, at), ..]) => context.error(
            Diagnostic::new(
                at.place.clone(),
                format!("`{key}` has no meaning for opaque tokens"),
            )
            .help(format!(
                "remove `{key}`, or write format = \"{}\"",
                TokenFormat::Jwt.word()
            )),
        ),
        _ => {}
    }
    if format == TokenFormat::Opaque && section.introspection.is_absent() {
        context.error(
            Diagnostic::new(
                section.place.clone(),
                "opaque tokens can be checked by asking their issuer only",
            )
            .label("`introspection` is missing here")
            .help("add [token_issuer.introspection]"),
        );
    }
}

/// Returns the name of a unit of material that belongs to an issuer. `what` is the kind of the
/// unit.
fn unit_key(what: &str, section: &TokenIssuerSection) -> UnitKey {
    let name = section.name.value().map_or("", String::as_str);
    UnitKey::new(format_args!("{what} of [[token_issuer]] {name}"))
}

/// Reads the roots with which the TLS certificate of the issuer is verified. Returns an empty store
/// if no roots are configured, and `None` if the configured roots are invalid.
fn roots(section: &TokenIssuerSection, context: &mut Context<'_>) -> Option<Arc<RootCertStore>> {
    let found = match &section.roots {
        Field::Bad => return None,
        files => context.unit(unit_key("roots", section), |context| {
            material(files.items(), context, pem::roots)
        })?,
    };
    let mut store = RootCertStore::empty();
    for root in found {
        if store.add(root.value).is_err() {
            context.error(
                Diagnostic::new(
                    root.place,
                    format!(
                        "{}: a certificate cannot be a root: it cannot be read",
                        root.path.display()
                    ),
                )
                .label("this file"),
            );
            return None;
        }
    }
    Some(Arc::new(store))
}

/// Checks that the issuer has roots if documents are fetched from it by https. The gateway trusts
/// no roots by default.
fn check_roots(
    written: &At<String>,
    https: bool,
    roots: &RootCertStore,
    context: &mut Context<'_>,
) {
    if https && roots.is_empty() {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "this [[token_issuer]] has no `roots`",
            )
            .label("whom to believe here is not said")
            .help("add roots = [\"FILE.pem\"] with the authorities that may vouch for the issuer"),
        );
    }
}

fn keys(
    section: &TokenIssuerSection,
    roots: Arc<RootCertStore>,
    timeout: Duration,
    rules: &str,
    context: &mut Context<'_>,
) -> Option<(IssuerKeys, Provenance)> {
    if let Field::Bad = section.jwks_file {
        return None;
    }
    if let Some(written) = section.jwks_file.at() {
        let path = context.files.locate(&written.value);
        let content = context.read_unit(unit_key("key set", section), written, &path)?;
        let set = key_set(written, &path, content.expose(), context)?;
        let provenance = Provenance {
            rules: hash(&[rules.as_bytes(), content.expose()]),
            keys: [0; 32],
        };
        return Some((IssuerKeys::fixed(set), provenance));
    }
    let issuer = section.issuer.at()?;
    let (written, location) = match &section.jwks_uri {
        Field::Bad => return None,
        Field::Good(url) => (url, KeyLocation::key_set(&url.value)),
        Field::Absent => (issuer, KeyLocation::metadata(&issuer.value)),
    };
    let location = match location {
        Ok(location) => location,
        Err(error) => {
            context.error(
                Diagnostic::new(
                    written.place.clone(),
                    format!("nothing can be fetched from here: {error}"),
                )
                .help("write the issuer's https URL, or add jwks_uri or jwks_file"),
            );
            return None;
        }
    };
    check_roots(
        written,
        written.value.starts_with("https:"),
        &roots,
        context,
    );
    let mut settings = KeySettings::default();
    bounds::set_time_within(
        &section.last_good,
        Duration::from_secs(60)..=Duration::from_secs(7 * 86_400),
        &mut settings.last_good,
        context,
    );
    let described = format!("{location:?}|{:?}|{timeout:?}|{settings:?}", roots.roots);
    let provenance = Provenance {
        rules: hash(&[rules.as_bytes(), described.as_bytes()]),
        keys: hash(&[b"remote", described.as_bytes()]),
    };
    let known = context.previous.and_then(|previous| {
        let mut issuers = previous.token_issuers.iter();
        issuers.find_map(|issuer| issuer.keys_for(&provenance))
    });
    let keys = match known {
        Some(keys) => keys,
        None => {
            let client = client(section, roots, None, timeout, context)?;
            IssuerKeys::remote(location, client, settings)
        }
    };
    Some((keys, provenance))
}

fn key_set(
    written: &At<String>,
    path: &std::path::Path,
    content: &[u8],
    context: &mut Context<'_>,
) -> Option<JwkSet> {
    let set = match JwkSet::from_json(content) {
        Ok(set) => set,
        Err(error) => {
            context.error(
                pem::about(written, path, &format!("is no JWK set: {error}"))
                    .help("write {\"keys\": […]} as in RFC 7517 section 5"),
            );
            return None;
        }
    };
    if set.is_empty() {
        let why: Vec<String> = set.refused().iter().map(ToString::to_string).collect();
        let what = match why.as_slice() {
            [] => "has no keys".to_owned(),
            why => format!("has no key that can be used: {}", why.join("; ")),
        };
        context.error(pem::about(written, path, &what).help("add the issuer's public keys"));
        return None;
    }
    for error in set.refused() {
        context.warn(pem::about(
            written,
            path,
            &format!("has a key that is left out: {error}"),
        ));
    }
    Some(set)
}

/// Builds the client of the issuer's introspection endpoint. Returns `None` if its configuration is
/// invalid, and `Some(None)` if there is no such endpoint.
fn introspector(
    section: &TokenIssuerSection,
    roots: Option<&Arc<RootCertStore>>,
    timeout: Duration,
    context: &mut Context<'_>,
) -> Option<Option<Introspector>> {
    let said = match &section.introspection {
        Field::Absent => return Some(None),
        Field::Bad => return None,
        Field::Good(said) => &said.value,
    };
    let endpoint = said
        .endpoint
        .at()
        .and_then(|written| match checked_url(&written.value) {
            Ok(url) => Some((written, url)),
            Err(error) => {
                context.error(
                    Diagnostic::new(
                        written.place.clone(),
                        format!("nobody can be asked here: {error}"),
                    )
                    .help("write the https URL of the issuer's introspection endpoint"),
                );
                None
            }
        });
    let means = said.authentication.at()?;
    check_means(said, means, context);
    let own = match means.value {
        ClientMeans::Certificate => {
            let owner = CertificateOwner::TokenIssuer(section.name.or(String::new()));
            Some(credentials(
                &owner,
                &said.certificate,
                &said.private_key,
                context,
            )?)
        }
        ClientMeans::Basic | ClientMeans::PrivateKeyJwt => None,
    };
    let authentication = authentication(section, said, means.value, context);
    let (written, endpoint) = endpoint?;
    let roots = Arc::clone(roots?);
    let https = endpoint.scheme_str() == Some("https");
    check_roots(written, https, &roots, context);
    if means.value == ClientMeans::Certificate && !https {
        context.error(
            Diagnostic::new(written.place.clone(), "plain http shows no certificate")
                .help("write an https endpoint, or choose another authentication"),
        );
    }
    let client = client(section, roots, own.as_ref(), timeout, context)?;
    Some(Some(Introspector::new(endpoint, client, authentication?)))
}

/// Checks that the section has all keys that its `authentication` needs, and none that only another
/// kind of authentication uses.
fn check_means(said: &IntrospectionSection, means: &At<ClientMeans>, context: &mut Context<'_>) {
    use ClientMeans::{Basic, Certificate, PrivateKeyJwt};
    let keys = [
        ("secret_file", &said.secret_file, &[Basic][..], true),
        ("certificate", &said.certificate, &[Certificate], true),
        (
            "private_key",
            &said.private_key,
            &[Certificate, PrivateKeyJwt],
            true,
        ),
        ("key_id", &said.key_id, &[PrivateKeyJwt], false),
        ("audience", &said.audience, &[PrivateKeyJwt], false),
    ];
    let word = means.value.word();
    for (key, field, of, needed) in keys {
        match field {
            Field::Absent if needed && of.contains(&means.value) => context.error(
                Diagnostic::new(
                    means.place.clone(),
                    format!("authentication = \"{word}\" needs `{key}`"),
                )
                .help(format!("add `{key}`")),
            ),
            Field::Good(at) if !of.contains(&means.value) => context.error(
                Diagnostic::new(
                    at.place.clone(),
                    format!("`{key}` has no meaning with authentication = \"{word}\""),
                )
                .also(means.place.clone(), "this")
                .help(format!("remove `{key}`, or choose another authentication")),
            ),
            _ => {}
        }
    }
}

fn authentication(
    section: &TokenIssuerSection,
    said: &IntrospectionSection,
    means: ClientMeans,
    context: &mut Context<'_>,
) -> Option<ClientAuthentication> {
    let client_id = said.client_id.value()?.clone();
    match means {
        ClientMeans::Certificate => Some(ClientAuthentication::Certificate { client_id }),
        ClientMeans::Basic => {
            let written = said.secret_file.at()?;
            let path = context.files.locate(&written.value);
            let key = unit_key("introspection secret", section);
            let secret = context.read_private_unit(key, written, &path)?;
            // The line ending that editors and shells add to the file is not part of the secret.
            let text = secret.expose().trim_ascii_end();
            if text.len() < MIN_SECRET || !text.iter().all(u8::is_ascii_graphic) {
                context.error(
                    pem::about(
                        written,
                        &path,
                        &format!("holds no secret: at least {MIN_SECRET} visible ASCII characters are expected"),
                    )
                    .help("write the client secret on one line"),
                );
                return None;
            }
            let secret = Secret::new(text.to_vec());
            Some(ClientAuthentication::Basic { client_id, secret })
        }
        ClientMeans::PrivateKeyJwt => {
            let (scheme, key, thumbprint) = assertion_key(section, said, context)?;
            Some(ClientAuthentication::PrivateKeyJwt {
                client_id,
                audience: match said.audience.value() {
                    Some(audience) => audience.clone(),
                    None => section.issuer.value()?.clone(),
                },
                key_id: said.key_id.or(thumbprint),
                scheme,
                key: Box::new(key),
            })
        }
    }
}

fn assertion_key(
    section: &TokenIssuerSection,
    said: &IntrospectionSection,
    context: &mut Context<'_>,
) -> Option<(SignatureScheme, SigningKeyPair, String)> {
    let written = said.private_key.at()?;
    let path = context.files.locate(&written.value);
    let unit = unit_key("introspection key", section);
    let content = context.read_private_unit(unit, written, &path)?;
    let document = crate::pem::plain_pkcs8_key(content.expose())
        .map_err(|error| context.error(pem::damaged(written, &path, &error)))
        .ok()?;
    let schemes = [SignatureScheme::EcdsaP256Sha256, SignatureScheme::Ed25519];
    let key = schemes.into_iter().find_map(|scheme| {
        let key = SigningKeyPair::from_pkcs8(scheme, document.expose()).ok()?;
        Some((scheme, key))
    });
    let Some((scheme, key)) = key else {
        if crate::pem::lacks_public_part(document.expose()) {
            let name = shell_with(&path);
            let help = format!("add it: openssl ec -in {} -out {}", name(""), name(".key"));
            context.error(pem::about(written, &path, "lacks its public part").help(help));
            return None;
        }
        context.error(
            pem::about(written, &path, "holds no P-256 or Ed25519 key in PKCS#8")
                .help("make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE"),
        );
        return None;
    };
    let thumbprint = thumbprint(scheme, &key)?;
    Some((scheme, key, thumbprint))
}

/// Returns the RFC 7638 thumbprint of a key. If `key_id` is not configured, the thumbprint is the
/// `kid` of the key.
fn thumbprint(scheme: SignatureScheme, key: &SigningKeyPair) -> Option<String> {
    let public = match scheme {
        SignatureScheme::EcdsaP256Sha256 => Jwk::from_p256_point(key.public_key()).ok()?,
        SignatureScheme::Ed25519 => Jwk::from_ed25519(key.public_key().try_into().ok()?),
    };
    public.key_id().map(str::to_owned)
}

fn client(
    section: &TokenIssuerSection,
    roots: Arc<RootCertStore>,
    own: Option<&crate::tls::Credentials>,
    timeout: Duration,
    context: &mut Context<'_>,
) -> Option<HttpClient> {
    let settings = ClientSettings {
        roots,
        certificate: own.map(crate::tls::client::always),
        timeout,
    };
    HttpClient::new(&settings)
        .map_err(|error| {
            context.error(Diagnostic::new(section.place.clone(), error.to_string()));
        })
        .ok()
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut all = Vec::new();
    for part in parts {
        // The length before each part makes the bytes unique: two different lists of parts never
        // give the same bytes.
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    crypto::sha256(&all)
}
