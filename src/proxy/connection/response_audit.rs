//! `ResponseAudit`: the audit record of a response until the response is over.

use std::fmt;
use std::sync::Arc;

use super::Connection;
use super::in_flight::InFlightRequest;
use crate::policy::Denial;
use crate::telemetry::record::AuditRecord;

/// The audit record of a response, and its place among the requests in progress. Dropping
/// it closes both.
pub(crate) struct ResponseAudit {
    record: AuditRecord,
    /// None for a response of the gateway itself.
    in_flight: Option<InFlightRequest>,
    connection: Arc<Connection>,
    /// The record already says how the response ended, or why it was refused.
    is_settled: bool,
}

impl ResponseAudit {
    /// For a service's response.
    pub(crate) const fn forwarded(
        record: AuditRecord,
        in_flight: InFlightRequest,
        connection: Arc<Connection>,
    ) -> Self {
        Self {
            record,
            in_flight: Some(in_flight),
            connection,
            is_settled: false,
        }
    }

    /// For a response of the gateway itself. Its record has a reason already.
    pub(crate) const fn local(record: AuditRecord, connection: Arc<Connection>) -> Self {
        Self {
            record,
            in_flight: None,
            connection,
            is_settled: true,
        }
    }

    /// Gives back the place among the requests of the upstream.
    pub(crate) fn release_upstream(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.release_upstream();
        }
    }

    /// Records that the whole response was handed over.
    pub(crate) fn complete(mut self) {
        self.record.complete();
        self.is_settled = true;
    }

    /// Records why the response ended early.
    pub(crate) fn refused(mut self, denial: &Denial) {
        if !self.is_settled {
            self.record.refused(denial.reason, &denial.recorded());
            self.is_settled = true;
        }
    }
}

impl Drop for ResponseAudit {
    fn drop(&mut self) {
        if self.is_settled {
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
