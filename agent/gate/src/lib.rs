//! The gate's judgement and its reports: what a policy makes of a run, and how the run is told in each format.
//!
//! Everything here is made of one message, [`Run`](staghound_proto::v1::Run), so that a stored run can be judged and told
//! again anywhere. Nothing here asks the kernel, reads a clock, or writes a file.
#![forbid(unsafe_code)]

pub mod attest;
pub mod policy;
pub mod report;
pub mod yaml;

use staghound_proto::v1::{Decision, PolicyMode, Severity, Verdict};

/// The severity as rules and policies write it; `unspecified` for one that this version does not know.
#[must_use]
pub const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Unspecified => "unspecified",
        Severity::Informational => "informational",
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}

/// The verdict as exit messages and reports write it.
#[must_use]
pub const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "not judged",
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Inconclusive => "inconclusive",
    }
}

/// What became of a finding, as reports write it.
#[must_use]
pub const fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Unspecified => "not judged",
        Decision::Tolerated => "tolerated",
        Decision::Warned => "warned",
        Decision::Failed => "failed",
        Decision::Waived => "waived",
    }
}

/// The mode as policies write it.
#[must_use]
pub const fn mode_name(mode: PolicyMode) -> &'static str {
    match mode {
        PolicyMode::Unspecified => "unspecified",
        PolicyMode::Observe => "observe",
        PolicyMode::Warn => "warn",
        PolicyMode::Enforce => "enforce",
    }
}
