//! Fields of Sigma's taxonomy for Linux, and the events that its log sources are about.

use crate::event::EventKind;
use crate::field::{Field, FieldRef};

/// A log source that we supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Category {
    /// `process_creation`: a program was started.
    Process,
    /// `file_event`: a file was made or written, or put in place under another name.
    File,
    /// `network_connection`: a connection was opened or accepted.
    Network,
}

impl Category {
    /// The category of a log source.
    pub(crate) fn find(name: &str) -> Option<Self> {
        Some(match name {
            "process_creation" => Self::Process,
            "file_event" => Self::File,
            "network_connection" => Self::Network,
            _ => return None,
        })
    }

    /// What an alert says after the title of its rule.
    pub(crate) fn output(self) -> &'static str {
        match self {
            Self::Process => "%proc.exeline (by %user.name, parent %proc.pname)",
            Self::File => "%evt.args by %proc.exeline (%user.name)",
            Self::Network => "%fd.name by %proc.exeline (%user.name)",
        }
    }

    /// The kinds of event, apart from those that only tell names of servers.
    pub(crate) fn kinds(self) -> &'static [EventKind] {
        match self {
            Self::Process => &[EventKind::Exec],
            Self::File => &[EventKind::Open, EventKind::Rename, EventKind::Link, EventKind::Symlink],
            Self::Network => &[EventKind::Connect, EventKind::Accept],
        }
    }
}

/// What a field of Sigma is in our events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// The first of these that an event has.
    Fields(&'static [Field]),
    /// The opposite of a flag.
    Opposite(Field),
    /// Whether the address of a socket is one of version 6.
    IsIpv6,
    /// When it happened, in nanoseconds since 1970.
    Time,
}

/// Our fields for one of Sigma's.
pub(crate) fn find(name: &str) -> Option<Mapped> {
    Some(Mapped::Fields(match name {
        "Image" => &[Field::ProcExepath],
        "CommandLine" => &[Field::ProcExeline],
        "ParentImage" => &[Field::ProcPexepath],
        "ParentCommandLine" => &[Field::ProcPcmdline],
        "CurrentDirectory" => &[Field::ProcCwd],
        "User" => &[Field::UserName],
        // As Sysmon for Linux fills it.
        "LogonId" => &[Field::UserUid],
        "ProcessId" => &[Field::ProcPid],
        "ParentProcessId" => &[Field::ProcPpid],
        "ComputerName" | "Computer" | "Hostname" => &[Field::EvtHostname],
        "TargetFilename" => &[Field::FsPathTarget, Field::FdName],
        "SourceFilename" => &[Field::FsPathSource],
        "DestinationIp" => &[Field::FdSip],
        "DestinationPort" => &[Field::FdSport],
        "DestinationHostname" => &[Field::TlsSni, Field::DnsQname],
        "SourceIp" => &[Field::FdCip],
        "SourcePort" => &[Field::FdCport],
        "Protocol" => &[Field::FdL4proto],
        "Initiated" => return Some(Mapped::Opposite(Field::FdIsServer)),
        "DestinationIsIpv6" | "SourceIsIpv6" => return Some(Mapped::IsIpv6),
        "UtcTime" | "TimeCreated" | "EventTime" => return Some(Mapped::Time),
        _ => return None,
    }))
}

/// Sigma's names that [`find`] knows, for suggestions.
pub(crate) const NAMES: &[&str] = &[
    "Image",
    "CommandLine",
    "ParentImage",
    "ParentCommandLine",
    "CurrentDirectory",
    "User",
    "LogonId",
    "ProcessId",
    "ParentProcessId",
    "ComputerName",
    "Computer",
    "Hostname",
    "TargetFilename",
    "SourceFilename",
    "DestinationIp",
    "DestinationPort",
    "DestinationHostname",
    "SourceIp",
    "SourcePort",
    "Protocol",
    "Initiated",
    "DestinationIsIpv6",
    "SourceIsIpv6",
    "UtcTime",
    "TimeCreated",
    "EventTime",
];

/// Where keywords are looked for: all texts of an event that Sigma has fields for.
pub(crate) const KEYWORD_FIELDS: &[Field] = &[
    Field::ProcExepath,
    Field::ProcExeline,
    Field::ProcPexepath,
    Field::ProcPcmdline,
    Field::ProcCwd,
    Field::UserName,
    Field::FsPathSource,
    Field::FsPathTarget,
    Field::FdName,
    Field::TlsSni,
    Field::DnsQname,
];

/// Fields of correlations: what events are grouped by and values are counted of. The first that an event has counts.
pub(crate) fn grouped(name: &str) -> Option<Box<[FieldRef]>> {
    let fields: &[Field] = match find(name)? {
        Mapped::Fields(fields) => fields,
        Mapped::Opposite(field) => &[field],
        Mapped::IsIpv6 => &[Field::FdType],
        Mapped::Time => &[Field::EvtTime],
    };
    Some(fields.iter().map(|field| FieldRef::plain(*field)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_mapped_to_fields_that_are_supplied() {
        for name in NAMES {
            for field in grouped(name).unwrap_or_else(|| panic!("{name} is not mapped")) {
                assert!(FieldRef::resolve(field.field.name(), None).is_ok(), "{name}: {field}");
            }
        }
        assert_eq!(find("Nothing"), None);
    }
}
