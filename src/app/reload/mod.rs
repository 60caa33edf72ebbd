//! Puts changes on disk into service: units of material one by one, and the configuration as a
//! transaction.
//!
//! *Material* means the files that the configuration in service names: certificates, keys,
//! roots, CRLs, the deny list. Changed material takes effect by itself, even if the
//! configuration file has changed too. The *configuration* is loaded when its file changes, on
//! SIGHUP and on request. If anything it names is bad, the old configuration stays in service and
//! the reason is reported.
//!
//! One task decides about both, and is the only one that puts a snapshot into service. Files
//! are read on threads that no task joins (`load`, `file_watch`): a thread that hangs delays
//! only its own unit. A failed load is repeated until it succeeds, even if no file changes: the
//! cause may be a lack of memory or descriptors.
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
//! - `impact`: reports how new trust material affects recent callers
//! - `announce`: logs facts about a new configuration that operators should know

pub(super) mod announce;
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
