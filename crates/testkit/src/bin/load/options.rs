//! Command line options in the form `--name value`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Outcome;

/// The options of one command: names without `--`, and their values.
#[derive(Debug)]
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    /// Parses `--name value` pairs.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = BTreeMap::new();
        while let Some(argument) = arguments.next() {
            let name = argument
                .strip_prefix("--")
                .ok_or_else(|| format!("{argument}: options begin with --"))?;
            let value = arguments
                .next()
                .ok_or_else(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    /// Returns the value of an option, or `default` if the option is missing.
    pub(crate) fn value<T>(&self, name: &str, default: T) -> Outcome<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.0.get(name).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|error| format!("--{name} {text}: {error}").into())
        })
    }

    fn needed(&self, name: &str) -> Outcome<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| format!("--{name} is missing").into())
    }

    /// Returns the kind of load (`--kind`).
    pub(crate) fn kind(&self) -> Outcome<&str> {
        self.needed("kind")
    }

    /// Returns the address to connect to (`--to`). It must be a loopback address.
    pub(crate) fn target(&self) -> Outcome<SocketAddr> {
        let address: SocketAddr = self.needed("to")?.parse()?;
        if address.ip().is_loopback() {
            Ok(address)
        } else {
            Err(format!("--to {address}: loopback only").into())
        }
    }

    /// Returns the directory with the certificates (`--pki`).
    pub(crate) fn pki(&self) -> Outcome<PathBuf> {
        Ok(self.needed("pki")?.into())
    }
}
