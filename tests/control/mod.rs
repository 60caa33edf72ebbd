//! Functions of a running gateway for operators, and for callers that ask about themselves.

mod denials;
mod operators;
mod probe;
mod socket;
mod strangers;
mod whoami;
