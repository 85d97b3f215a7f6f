//! Parsed and validated configuration.
