//! `countersign pki export`: writes a certificate or the trusted roots in another form.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::authority::with_remedy;
use crate::cli::common::format::absolute;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::cli::common::passphrase::PassphraseArgs;
use crate::pki::Pki;
use crate::pki::export::{self, ChainFile, Pkcs12Cipher};

const EXAMPLES: &str = "\
Examples:
  countersign pki export certs/issued/alice.pem --format pkcs12 --out alice.p12
  countersign pki export certs/issued/alice.pem --format pkcs12 --legacy --out alice.p12
  countersign pki export certs/issued/gateway.pem --format der --out gateway.der
  countersign pki export --dir certs --format truststore --out truststore.p12
  countersign pki export --dir certs --format bundle --out bundle.json

PKCS#12 files and truststores are sealed with a passphrase. Java reads a truststore with
-Djavax.net.ssl.trustStore=FILE -Djavax.net.ssl.trustStoreType=PKCS12. The keychain of macOS
takes --legacy files only, and says \"wrong password\" otherwise.";

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The leaf as PEM.
    Pem,
    /// The leaf and its intermediates as PEM.
    FullChain,
    /// The leaf as DER.
    Der,
    /// Key, leaf and intermediates as PKCS#12.
    Pkcs12,
    /// The trusted roots of --dir as PKCS#12 for Java.
    Truststore,
    /// The trusted roots of --dir as a SPIFFE bundle (JWKS).
    Bundle,
}

/// Arguments of `countersign pki export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// The certificate to export, PREFIX.pem; omit it for truststore and bundle.
    #[arg(value_name = "CERT")]
    certificate: Option<PathBuf>,
    /// The output format.
    #[arg(long, value_enum)]
    format: Format,
    /// Where to write the result; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// The authority's directory, for truststore and bundle.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The private key for pkcs12 [default: PREFIX.key].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Encrypt with Triple DES instead of AES-256, for systems that support nothing else.
    #[arg(long)]
    legacy: bool,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) fn run(args: &ExportArgs, output: Output) -> Result<Exit, CliError> {
    let content = content(args)?;
    if args.out == Path::new("-") {
        // Ignores write errors, because a closed pipe is not a failure.
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(&content).and_then(|()| stdout.flush());
        return Ok(Exit::Done);
    }
    let private = args.format == Format::Pkcs12;
    export::write(&args.out, &content, private, args.force)
        .map_err(|error| with_remedy(error, "--force replaces it"))?;
    output.json(&json!({ "file": absolute(&args.out), "bytes": content.len() }));
    output.say(format_args!("Wrote {}.", args.out.display()));
    Ok(Exit::Done)
}

fn content(args: &ExportArgs) -> Result<Vec<u8>, CliError> {
    let cipher = if args.legacy {
        Pkcs12Cipher::Legacy
    } else {
        Pkcs12Cipher::Modern
    };
    let chain = || -> Result<ChainFile, CliError> {
        let path = certificate(args)?;
        Ok(ChainFile::read(path)?)
    };
    let pki = || -> Result<Pki, CliError> {
        let dir = args.dir.as_deref().ok_or_else(|| {
            CliError::usage("this form exports the roots of an authority: --dir DIR")
        })?;
        Ok(Pki::open(dir)?)
    };
    Ok(match args.format {
        Format::Pem => chain()?.leaf_pem().into_bytes(),
        Format::FullChain => chain()?.full_pem().into_bytes(),
        Format::Der => chain()?.leaf_der().to_vec(),
        Format::Pkcs12 => {
            let key = match &args.key {
                Some(key) => key.clone(),
                None => certificate(args)?.with_extension("key"),
            };
            let chain = chain()?;
            chain.pkcs12(
                &key,
                &args.passphrase.choose_for("the PKCS#12 file")?,
                cipher,
            )?
        }
        Format::Truststore => {
            let pki = pki()?;
            pki.truststore(&args.passphrase.choose_for("the truststore")?, cipher)?
        }
        Format::Bundle => {
            let mut text = serde_json::to_string_pretty(&pki()?.spiffe_bundle()?)
                .map_err(|error| CliError::failed(error.to_string()))?;
            text.push('\n');
            text.into_bytes()
        }
    })
}

fn certificate(args: &ExportArgs) -> Result<&Path, CliError> {
    args.certificate
        .as_deref()
        .ok_or_else(|| CliError::usage("this form exports a certificate: name its file"))
}
