//! `Account`: what is written down of an answer once it is over.

use std::fmt;
use std::sync::Arc;

use super::Connection;
use super::in_flight::InFlightRequest;
use crate::policy::Denial;
use crate::telemetry::record::AuditRecord;

/// The audit record of an answer under way, and its place among the requests in
/// progress. Dropping it closes both.
pub(crate) struct ResponseAudit {
    record: AuditRecord,
    /// None for an answer that the gateway made.
    active: Option<InFlightRequest>,
    connection: Arc<Connection>,
    /// Nothing remains to be said of how it ended.
    settled: bool,
}

impl ResponseAudit {
    /// Of a service's answer.
    pub(crate) const fn streamed(
        record: AuditRecord,
        active: InFlightRequest,
        connection: Arc<Connection>,
    ) -> Self {
        Self {
            record,
            active: Some(active),
            connection,
            settled: false,
        }
    }

    /// Of an answer that the gateway made, and whose reason is that it did.
    pub(crate) const fn made(record: AuditRecord, connection: Arc<Connection>) -> Self {
        Self {
            record,
            active: None,
            connection,
            settled: true,
        }
    }

    /// The service has no more to do with it.
    pub(crate) fn leave_upstream(&mut self) {
        if let Some(active) = &mut self.active {
            active.leave_upstream();
        }
    }

    /// The whole answer was handed over.
    pub(crate) fn complete(mut self) {
        self.record.complete();
        self.settled = true;
    }

    /// It ends early.
    pub(crate) fn refused(mut self, denial: &Denial) {
        if !self.settled {
            self.record.refused(denial.reason, &denial.recorded());
            self.settled = true;
        }
    }
}

impl Drop for ResponseAudit {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if let Some(denial) = self.connection.cut_reason() {
            self.record.refused(denial.reason, &denial.recorded());
        }
    }
}

impl fmt::Debug for ResponseAudit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ResponseAudit")
            .finish_non_exhaustive()
    }
}
