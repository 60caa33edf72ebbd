//! `RedisStore`: rate limits that several gateways count together, in Redis or Valkey.
//!
//! The store runs a Lua version of [`super::rate_limit::conforms`]. Counting a request is therefore
//! atomic and needs one round trip. A test compares both versions. Times come from the store's
//! clock, so that differences between the gateways' clocks have no effect. After a failure, the
//! store is not used for `PAUSE`, so that requests do not wait for a store that is down.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, IntoConnectionInfo as _, Script, TlsCertificates};
use tokio::runtime::Handle;

use super::rate_limit::{RateLimit, Verdict, verdict};
use super::throttle::{Asked, SharedStore, StoreFailed};
use crate::crypto;
use crate::secret::Secret;

/// The algorithm in Lua. Times are in microseconds since the Unix epoch. Lua's numbers represent
/// these times exactly until the year 2255. Tests pass the time as a third argument.
const SCRIPT: &str = r"
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3] or false)
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local arrival = tonumber(redis.call('GET', KEYS[1])) or now
if arrival < now then arrival = now end
local next = arrival + interval
if next - now > tolerance then return {0, arrival, now} end
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - now) / 1000) + 1)
return {1, next, now}
";

/// Time for which the store is not used after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The settings of `[rate_limits.redis]`.
#[derive(Debug)]
pub struct RedisSettings {
    /// The URL with scheme `redis`, `rediss` or `redis+unix`, without user and password.
    pub url: String,
    /// The user name, if there is one.
    pub username: Option<String>,
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// The root certificates for the store's TLS certificate, in PEM.
    pub roots: Option<Vec<u8>>,
    /// Maximum time for counting one request in the store.
    pub timeout: Duration,
    /// The prefix of all key names in the store.
    pub prefix: String,
}

/// The error for settings with which no client can be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadStore(String);

/// A store in Redis or Valkey in which several gateways count requests.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    client: Client,
    timeout: Duration,
    prefix: String,
    script: Script,
    connection: OnceLock<ConnectionManager>,
    runtime: OnceLock<Handle>,
    origin: Instant,
    /// The time until which the store is not used, in milliseconds since `origin`.
    paused_until: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl RedisStore {
    /// Creates a store with these settings. Does not connect yet.
    ///
    /// # Errors
    /// Returns [`BadStore`] if the settings are invalid.
    pub fn new(settings: RedisSettings) -> Result<Self, BadStore> {
        let bad = |error: redis::RedisError| BadStore(error.to_string());
        // The redis library uses the default cryptography provider of the process, so the gateway's
        // provider is installed as the default.
        let _ = (*crypto::provider()).clone().install_default();
        let info = settings.url.as_str().into_connection_info().map_err(bad)?;
        let mut redis = info.redis_settings().clone();
        if let Some(username) = &settings.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &settings.password {
            let password = std::str::from_utf8(password.expose())
                .map_err(|_| BadStore("the password is not text".to_owned()))?;
            redis = redis.set_password(password);
        }
        let info = info.set_redis_settings(redis);
        let client = match settings.roots {
            Some(roots) => Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(roots),
                },
            ),
            None => Client::open(info),
        };
        Ok(Self(Arc::new(Inner {
            client: client.map_err(bad)?,
            timeout: settings.timeout,
            prefix: settings.prefix,
            script: Script::new(SCRIPT),
            connection: OnceLock::new(),
            runtime: OnceLock::new(),
            origin: Instant::now(),
            paused_until: AtomicU64::new(0),
            problem: Mutex::default(),
        })))
    }
}

impl Inner {
    fn connection(&self) -> Result<ConnectionManager, StoreFailed> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|error| StoreFailed(error.to_string()))?;
        Ok(self.connection.get_or_init(|| made).clone())
    }

    /// Runs the script in the store. Returns whether the request is allowed, the key's theoretical
    /// arrival time after the request, and the store's current time. Both times are in
    /// microseconds.
    async fn ask(
        &self,
        key: &[u8; 32],
        interval: u64,
        tolerance: u64,
        now: Option<u64>,
    ) -> Result<(bool, u64, u64), StoreFailed> {
        let mut connection = self.connection()?;
        let mut name = self.prefix.clone().into_bytes();
        name.extend_from_slice(key);
        let mut invocation = self.script.key(name);
        invocation.arg(interval).arg(tolerance);
        if let Some(now) = now {
            invocation.arg(now);
        }
        let asked = invocation.invoke_async(&mut connection);
        let (allowed, arrival, now): (u8, u64, u64) = tokio::time::timeout(self.timeout, asked)
            .await
            .map_err(|_| StoreFailed("no answer in time".to_owned()))?
            .map_err(|error| StoreFailed(error.to_string()))?;
        Ok((allowed == 1, arrival, now))
    }

    async fn count(&self, key: &[u8; 32], limit: &RateLimit) -> Result<Verdict, StoreFailed> {
        let interval = limit.interval().div_ceil(1000);
        let tolerance = limit.tolerance().div_ceil(1000);
        let counted = self.ask(key, interval, tolerance, None).await;
        self.note(counted.as_ref().err());
        let (allowed, arrival, now) = counted?;
        let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
        // Both times come from the store's clock, which may differ from this process's clock. Only
        // their difference is used.
        let ahead = nanoseconds(arrival.saturating_sub(now));
        Ok(verdict(ahead, 0, limit, allowed))
    }

    fn note(&self, error: Option<&StoreFailed>) {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error {
            let until = self.elapsed().saturating_add(milliseconds(PAUSE));
            self.paused_until.store(until, Ordering::Relaxed);
            if problem.is_none() {
                tracing::warn!(%error, "rate limits cannot be counted together");
            }
        } else if problem.is_some() {
            tracing::info!("rate limits are counted together again");
        }
        *problem = error.map(ToString::to_string);
    }

    fn elapsed(&self) -> u64 {
        milliseconds(self.origin.elapsed())
    }
}

impl SharedStore for RedisStore {
    fn take<'a>(&'a self, key: &'a [u8; 32], limit: &'a RateLimit) -> Asked<'a> {
        let inner = Arc::clone(&self.0);
        let (key, limit) = (*key, *limit);
        Box::pin(async move {
            if inner.elapsed() < inner.paused_until.load(Ordering::Relaxed) {
                return Err(StoreFailed("it has just failed".to_owned()));
            }
            let Some(runtime) = self.0.runtime.get() else {
                return inner.count(&key, &limit).await;
            };
            let counting = runtime.spawn(async move { inner.count(&key, &limit).await });
            counting
                .await
                .unwrap_or_else(|error| Err(StoreFailed(error.to_string())))
        })
    }

    fn run_on(&self, runtime: &Handle) {
        let _ = self.0.runtime.set(runtime.clone());
    }

    fn problem(&self) -> Option<String> {
        let problem = self.0.problem.lock();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisStore")
            .field("timeout", &self.0.timeout)
            .field("prefix", &self.0.prefix)
            .finish_non_exhaustive()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "redis_store_tests.rs"]
mod tests;
