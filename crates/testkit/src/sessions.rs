//! A store of TLS sessions for [`Client::resuming`](crate::Client::resuming). The client resumes
//! a session even with another server name or address than the one that created the session. A
//! careful client would not do this.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// Stores the sessions of all servers together, so that a session of one server can be resumed
/// at another.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// If true, the client stores new sessions, but resumes none.
    gathering: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
    count: usize,
}

impl Sessions {
    /// Returns how many sessions were stored in total, including sessions that were used since.
    pub(crate) fn count(&self) -> usize {
        self.kept.lock().expect("a lock").count
    }

    pub(crate) fn gather(&self, gathering: bool) {
        self.gathering.store(gathering, Ordering::SeqCst);
    }

    fn offers(&self) -> bool {
        !self.gathering.load(Ordering::SeqCst)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _server: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _server: ServerName<'static>, value: Tls12ClientSessionValue) {
        let mut kept = self.kept.lock().expect("a lock");
        kept.count += 1;
        kept.tls12 = Some(value);
    }

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let kept = self.kept.lock().expect("a lock").tls12.clone();
        kept.filter(|_| self.offers())
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept.lock().expect("a lock");
        kept.count += 1;
        kept.tls13.push_back(value);
    }

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut kept = self.kept.lock().expect("a lock");
        self.offers().then(|| kept.tls13.pop_front()).flatten()
    }
}
