//! `NowOrLater`: a result that is usually available at once, and sometimes has to be awaited.

use std::fmt;
use std::pin::Pin;

/// A result. Only a result that has to be awaited costs an allocation.
pub enum NowOrLater<'a, T> {
    /// The result is already there.
    Now(T),
    /// The result has to be awaited.
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<T> NowOrLater<'_, T> {
    /// Returns the result, and awaits it if necessary.
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
