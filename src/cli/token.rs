//! `countersign token`: checks an access token offline, as the gateway would. Can also remove
//! tokens from the cache of a running gateway.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use countersign_verify::jose::{
    Algorithm, CompactJws, JwkSet, MAX_JWK_SET_BYTES, MAX_TOKEN_BYTES, parse_object,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::common::admin_client::{ask, shown, text};
use super::common::gateway_args::GatewayArgs;
use super::common::output::{CliError, Exit, Output};
use super::common::token_file::read_token;
use super::common::{certificate_files, input};
use crate::admin::Purge;
use crate::authn::token::binding::CertificateBinding;
use crate::authn::token::claims::{ClaimRules, DEFAULT_SKEW, Demands};
use crate::authn::token::jwt::{self, TokenRules};
use crate::authn::token::token_type::TokenType;
use crate::clock;
use crate::identity::TokenClaims;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// Arguments of `countersign token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Verify a token with the issuer's keys.
    Verify(VerifyArgs),
    /// Make a running gateway remove tokens from its cache.
    Purge(PurgeArgs),
}

/// Arguments of `countersign token purge`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign token purge
  countersign token purge --hash fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo

For a token that was revoked at its issuer: what is remembered of it (remember_accepted) is
forgotten at once. Needs [admin] socket in the configuration, and the gateway's own user (or root);
or, with --admin, a certificate whose identity is among [admin] operators.
Reloads, rotated keys and changes of the deny list do the same by themselves.
Exit code 0: forgotten. 3: the gateway refuses this operator. 1: not reachable.")]
struct PurgeArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Remove only the token with this hash, as audit lines show it.
    #[arg(long, value_name = "HASH", allow_hyphen_values = true)]
    hash: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  countersign token verify --jwks keys.json token.jwt
  countersign token verify --jwks keys.json --issuer https://idp.example.org \\
      --audience orders-api --cert client.pem - < token.jwt

Without --issuer and --audience only the signature is verified, whatever the payload is.
With them the token is judged as the gateway would: type, issuer, audience, times, and the
certificate it is bound to. Exit code 0: good. 3: not good, with the reason on standard error.";

/// Arguments of `countersign token verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct VerifyArgs {
    /// The file with the issuer's keys: a JWK set, or one JWK.
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// Accept only this signature algorithm; may be repeated.
    #[arg(long, value_name = "ALGORITHM")]
    algorithm: Vec<String>,
    /// The issuer that the token must name.
    #[arg(long, value_name = "ISSUER", requires = "audience")]
    issuer: Option<String>,
    /// An audience that the token must name.
    #[arg(long, value_name = "AUDIENCE", requires = "issuer")]
    audience: Option<String>,
    /// The client certificate that the token must be bound to (PEM or DER).
    #[arg(long, value_name = "FILE", requires = "issuer")]
    cert: Option<PathBuf>,
    /// The file with the token; - for standard input.
    #[arg(value_name = "TOKENFILE")]
    token: PathBuf,
}

/// Runs `countersign token`.
pub(crate) fn run(args: &TokenArgs, output: Output) -> Result<Exit, CliError> {
    match &args.command {
        TokenCommand::Verify(args) => verify(args, output),
        TokenCommand::Purge(args) => purge(args, output),
    }
}

fn purge(args: &PurgeArgs, output: Output) -> Result<Exit, CliError> {
    let document = json!(Purge {
        hash: args.hash.clone(),
    });
    let (status, said) = ask(
        &args.gateway.endpoint()?,
        Method::POST,
        "/tokens/purge",
        Some(&document),
    )?;
    if status != StatusCode::OK {
        return Err(CliError::failed(text(&said, "error")));
    }
    output.json(&said);
    output.say(format_args!(
        "Forgotten: {} judgements; each token is judged anew.",
        shown(&said, "forgotten")
    ));
    Ok(Exit::Done)
}

fn verify(args: &VerifyArgs, output: Output) -> Result<Exit, CliError> {
    let files = [Some(&args.jwks), args.cert.as_ref(), Some(&args.token)];
    input::check_one_stdin(files.into_iter().flatten().map(PathBuf::as_path))?;
    let keys = key_set(&args.jwks)?;
    let thumbprint = args.cert.as_deref().map(thumbprint).transpose()?;
    let token = read_token(&args.token)?;
    match judge(args, &keys, thumbprint.as_ref(), &token) {
        Ok(claims) => {
            report(&token, claims.as_ref(), output);
            Ok(Exit::Done)
        }
        Err(denial) => {
            output.json(&json!({
                "valid": false, "code": denial.reason, "detail": denial.detail,
            }));
            Err(CliError::no(format_args!(
                "{}: {}",
                denial.reason, denial.detail
            )))
        }
    }
}

/// Checks the token. If no issuer is given, verifies only the signature and returns no claims.
fn judge(
    args: &VerifyArgs,
    keys: &JwkSet,
    thumbprint: Option<&[u8; 32]>,
    token: &str,
) -> Result<Option<TokenClaims>, Denial> {
    let algorithms = algorithms(&args.algorithm)?;
    let explain = |mut denial: Denial| {
        if denial.reason == ReasonCode::TokenSignature && !keys.refused().is_empty() {
            let reasons: Vec<String> = keys.refused().iter().map(ToString::to_string).collect();
            denial.detail = format!("{} (keys left out: {})", denial.detail, reasons.join("; "));
        }
        denial
    };
    let (Some(issuer), Some(audience)) = (&args.issuer, &args.audience) else {
        let jws = CompactJws::parse(token, MAX_TOKEN_BYTES).map_err(jwt::refusal)?;
        if !algorithms.contains(&jws.header().algorithm()) {
            return Err(Denial::new(
                ReasonCode::TokenAlgorithm,
                format!("it is signed with {}", jws.header().algorithm()),
            ));
        }
        return keys
            .key_for(jws.header())
            .and_then(|key| jws.verify(key))
            .map(|_| None)
            .map_err(|error| explain(jwt::refusal(error)));
    };
    let rules = TokenRules {
        claims: ClaimRules {
            issuer: issuer.clone(),
            audiences: vec![audience.clone()],
            binding: match thumbprint {
                Some(_) => CertificateBinding::Required,
                None => CertificateBinding::IfPresent,
            },
            skew: DEFAULT_SKEW,
            keep: Vec::new(),
        },
        algorithms,
        types: vec![TokenType::AccessToken, TokenType::Jwt, TokenType::Untyped],
    };
    let now = clock::unix_now();
    jwt::validate(token, keys, &rules, &Demands::default(), thumbprint, now)
        .map(Some)
        .map_err(explain)
}

/// Parses the names of algorithms. If an algorithm can never be used for verification, for example
/// `HS256`, the result is "no" and not a usage error.
fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, Denial> {
    if names.is_empty() {
        return Ok(jwt::ALL_ALGORITHMS.to_vec());
    }
    names
        .iter()
        .map(|name| {
            Algorithm::from_name(name).ok_or_else(|| {
                let known: Vec<&str> = jwt::ALL_ALGORITHMS.iter().map(|a| a.name()).collect();
                Denial::new(
                    ReasonCode::TokenAlgorithm,
                    format!("{name} is never accepted; {} are", known.join(", ")),
                )
            })
        })
        .collect()
}

fn report(token: &str, claims: Option<&TokenClaims>, output: Output) {
    let header = CompactJws::parse(token, MAX_TOKEN_BYTES)
        .map(|jws| jws.header().clone())
        .ok();
    let algorithm = header.as_ref().map(|header| header.algorithm().name());
    let key_id = header.as_ref().and_then(|header| header.key_id());
    let mut document = json!({"valid": true, "algorithm": algorithm, "kid": key_id});
    match claims {
        None => output.say("the signature verifies; nothing else was checked"),
        Some(claims) => {
            output.say(format_args!(
                "good until {} for {}{}",
                clock::rfc3339(i64::try_from(claims.expires).unwrap_or(i64::MAX)),
                claims.subject.as_deref().unwrap_or("no subject"),
                if claims.bound {
                    ", bound to the certificate"
                } else {
                    ""
                },
            ));
            if let Value::Object(members) = &mut document {
                members.insert("token".to_owned(), claims.to_json());
                members.insert("bound".to_owned(), json!(claims.bound));
                members.insert("expires".to_owned(), json!(claims.expires));
            }
        }
    }
    output.json(&document);
}

fn key_set(path: &Path) -> Result<JwkSet, CliError> {
    let mut content = input::read(path, MAX_JWK_SET_BYTES as u64)?;
    let unusable =
        |error| CliError::usage(format_args!("{} is not a JWK set: {error}", path.display()));
    let members = parse_object(&content, "key set").map_err(unusable)?;
    if members.contains_key("kty") && !members.contains_key("keys") {
        content = [&b"{\"keys\":["[..], &content, &b"]}"[..]].concat();
    }
    JwkSet::from_json(&content).map_err(unusable)
}

fn thumbprint(path: &Path) -> Result<[u8; 32], CliError> {
    let chain = certificate_files::certificates_beside_key(path)?;
    let leaf = chain.first().map_or(&[][..], AsRef::as_ref);
    crate::identity::LeafFacts::read(leaf)
        .map(|facts| facts.thumbprint)
        .map_err(|error| {
            CliError::usage(format_args!(
                "{} has no certificate: {error}",
                path.display()
            ))
        })
}
