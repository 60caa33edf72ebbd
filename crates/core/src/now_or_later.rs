//! `NowOrLater`: a result that is usually available immediately, and otherwise must be awaited.

use std::fmt;
use std::pin::Pin;

/// A result, or the future that produces the result. Memory is allocated only for a future.
pub enum NowOrLater<'a, T> {
    /// The result is available.
    Now(T),
    /// The result must be awaited.
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<T> NowOrLater<'_, T> {
    /// Returns the result. Awaits the future if there is one.
    pub async fn outcome(self) -> T {
        match self {
            Self::Now(outcome) => outcome,
            Self::Later(outcome) => outcome.await,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for NowOrLater<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(outcome) => formatter.debug_tuple("Now").field(outcome).finish(),
            Self::Later(_) => formatter.write_str("Later"),
        }
    }
}
