//! Pooled connections to endpoints, one shard for each worker.
//!
//! Each worker has its own shard, so that locks are rarely contended. An HTTP/1.1 connection leaves
//! the pool while a request uses it. It returns to the pool when the response has been read to its
//! end. An h2 connection always stays in the pool. A connection stays open over a reload if
//! address, protocol and TLS settings do not change.
//!
//! By default an h2 connection carries requests of one caller at a time. If callers shared a
//! connection, requests of one caller could make the service end it. Requests of other callers
//! would then end too. A connection becomes free for any caller under two conditions. Its last
//! stream has ended, and nothing that was sent on it could make the service end it. Therefore the
//! number of needed connections is about the number of callers that are active at the same time.
//!
//! - `acquire`: gets a connection for a request
//! - `dedicated`: connections that carry one tunnel only
//! - `search`: tries the endpoints of an upstream one after the other
//! - `lease`: a connection that a request uses
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
