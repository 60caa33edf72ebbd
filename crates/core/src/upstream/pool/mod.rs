//! Pooled connections to endpoints, one shard per worker.
//!
//! A shard belongs to one worker, so its locks are never contended. An HTTP/1.1 connection
//! leaves the pool while a request uses it, and returns when the response has been read to its
//! end; an h2 connection stays in the pool. Connections outlive a reload if address, protocol
//! and TLS expectations stay the same.
//!
//! An h2 connection carries requests of one caller at a time, unless the upstream is configured
//! otherwise: a service that ends a connection ends all requests on it, and one caller could
//! cause that for others. When its last stream has ended, and nothing that was sent on it could
//! make the service end it, any caller may use it next. The number of connections therefore
//! follows the number of callers that are active at the same time.
//!
//! - `acquire`: gets a connection for a request
//! - `dedicated`: connections that are used for one tunnel only
//! - `search`: tries the endpoints of an upstream one after the other
//! - `lease`: a connection while a request uses it
//! - `shard`: the connections of one worker
//! - `target_pool`: the connections of one worker to one target
//! - `h2_streams`: the streams of an h2 connection
//! - `local_waiters`: requests of one worker that wait for a connection

mod acquire;
mod dedicated;
mod h2_streams;
mod lease;
mod local_waiters;
mod search;
mod shard;
mod target_pool;

pub use self::lease::Lease;
pub use self::shard::PoolShard;
