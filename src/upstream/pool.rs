//! Pooled keep-alive connections to endpoints, one shard per worker.
