//! Puts changes on disk into service: units of material one by one, and the configuration as a
//! whole.
//!
//! *Material* means the files that the configuration in service names: certificates, keys, roots,
//! CRLs, the deny list. A *unit* is the material that is loaded together, for example one trust
//! domain. Changed material takes effect independently, even if the configuration file has changed
//! too. The *configuration* is loaded when its file changes, on SIGHUP and on request. If any part
//! of it is invalid, the old configuration stays in service, and the reason is reported.
//!
//! One task decides about material and configuration, and only this task puts snapshots into
//! service. Files are read on threads that no task joins (`load`, `file_watch`), so that a thread
//! that hangs delays only its own unit. A failed load is repeated until it succeeds, even if no
//! file changes, because the cause may be a lack of memory or file descriptors.
//!
//! - `run`: the loop of the task: handles events, starts loads, takes their outcomes
//! - `configuration`: loads the configuration
//! - `problems`: reports problems of loads
//! - `reloader`: the state of the task, and how it puts a snapshot into service
//! - `load`: runs each load on a separate thread
//! - `restart`: which changes of the configuration need a restart
//! - `events`: the events that the task handles
//! - `file_watch`: compares the stamps of files on a separate thread
//! - `configuration_state`, `unit_state`: the progress of loading the configuration, or a unit
//! - `comparison`: compares past decisions about requests with those of a snapshot
//! - `impact`: reports how new trust material affects recent callers
//! - `announce`: logs what operators should know about a new configuration

pub(super) mod announce;
pub mod comparison;
mod configuration;
mod configuration_state;
pub(super) mod events;
mod file_watch;
pub mod impact;
mod load;
mod problems;
pub(super) mod reloader;
mod restart;
mod run;
mod unit_state;
