//! To be written.

pub mod reports;
