//! The agent: everything between the kernel and the collector.
