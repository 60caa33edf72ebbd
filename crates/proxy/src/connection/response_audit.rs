//! `ResponseAudit`: keeps the audit record of a response until the response ends.

use std::fmt;
use std::sync::Arc;

use super::Connection;
use super::in_flight::InFlightRequest;
use crate::policy::Denial;
use crate::telemetry::record::AuditRecord;

/// The audit record of a response, and the request's entry in the requests in progress. On drop,
/// the record is written and the entry is removed.
pub(crate) struct ResponseAudit {
    record: AuditRecord,
    /// The entry of a forwarded request in the requests in progress. `None` if the gateway made the
    /// response itself.
    in_flight: Option<InFlightRequest>,
    connection: Arc<Connection>,
    /// Whether the record already says how the response ended.
    is_settled: bool,
}

impl ResponseAudit {
    /// Creates the `ResponseAudit` for a service's response.
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

    /// Creates the `ResponseAudit` for a response that the gateway made itself. The record already
    /// says how the request ended.
    pub(crate) const fn local(record: AuditRecord, connection: Arc<Connection>) -> Self {
        Self {
            record,
            in_flight: None,
            connection,
            is_settled: true,
        }
    }

    /// Stops counting the request in the concurrency limit of its upstream.
    pub(crate) fn release_upstream(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.release_upstream();
        }
    }

    /// Records that the whole response was passed to the caller's connection.
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
