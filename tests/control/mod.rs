//! What callers and operators can ask a running gateway about itself.

mod denials;
mod operators;
mod probe;
mod socket;
mod strangers;
mod whoami;
