//! Puts what changed on disk into service: units of material one by one, and the
//! configuration as a transaction.
//!
//! *Material* is what the configuration in service names: certificates, keys, roots, CRLs, the
//! deny list. It is watched and takes effect by itself, whatever the configuration file says
//! by then. The *configuration* is loaded when its file changes, on SIGHUP and on request:
//! everything it names is good, or the old one stays and the reason is reported.
//!
//! One task decides about both, and only it puts a snapshot into service. Files are read on
//! threads that no task joins (`load`, `file_watch`): one that hangs delays only its own unit.
//! A load that failed is tried again until it succeeds, because a file does not change when
//! the system is no longer short of something.
//!
//! - `run`: the loop of the task: handles events, starts loads, takes their outcomes
//! - `configuration`: loads the configuration
//! - `problems`: reports problems of loads
//! - `reloader`: the state of the task, and how it puts a snapshot into service
//! - `load`: loads on threads of their own
//! - `restart`: which changes of the configuration need a restart
//! - `events`: what the task is told
//! - `file_watch`: compares the stamps of files on a thread of its own
//! - `configuration_state`, `unit_state`: how far loading the configuration, or a unit, has come
//! - `impact`: what new trust means for recent callers
//! - `announce`: logs what an operator should know of a new configuration

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
