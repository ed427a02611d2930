//! Who this agent is and what host it runs on.

use staghound_proto::v1::Host;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest agent id of the contract.
const LENGTH_MAX: usize = 253;

/// Identity of an agent: 1 to 253 characters of `[A-Za-z0-9._-]`, stable across restarts.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct AgentId(String);

/// A text that is no agent id.
#[derive(Debug, thiserror::Error)]
#[error("invalid agent id `{}`; use 1 to {LENGTH_MAX} characters of A-Z, a-z, 0-9, `.`, `_` and `-`", .0.escape_debug())]
pub struct InvalidAgentId(String);

impl AgentId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AgentId {
    type Err = InvalidAgentId;

    fn from_str(text: &str) -> Result<Self, InvalidAgentId> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        match (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(legal) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidAgentId(text.chars().take(LENGTH_MAX).collect())),
        }
    }
}

impl TryFrom<String> for AgentId {
    type Error = InvalidAgentId;

    fn try_from(text: String) -> Result<Self, InvalidAgentId> {
        text.parse()
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The stored id cannot be read or made.
    #[error("agent id {}: cannot {action}: {source}; set `agent_id` in the configuration or make the state directory writable", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The stored id is none.
    #[error("agent id {}: {source}; correct or remove the file", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: InvalidAgentId,
    },
}

/// Where a host says who it is.
struct Sources<'a> {
    machine_id: &'a Path,
    state_directory: &'a Path,
}

/// The identity of this agent: the configured one, else the machine's, else a random one kept in the state directory.
///
/// # Errors
/// There is no machine id, and the state directory can neither be read nor written.
pub fn agent_id(configured: Option<&AgentId>, state_directory: &Path) -> Result<AgentId, IdentityError> {
    match configured {
        Some(id) => Ok(id.clone()),
        None => found_or_made(&Sources {
            machine_id: Path::new("/etc/machine-id"),
            state_directory,
        }),
    }
}

fn found_or_made(sources: &Sources<'_>) -> Result<AgentId, IdentityError> {
    if let Some(id) = read_machine_id(sources.machine_id) {
        return Ok(AgentId(id));
    }
    let path = sources.state_directory.join("agent-id");
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim_end()
            .parse()
            .map_err(|source| IdentityError::Invalid { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path).map_err(|source| IdentityError::Io {
            path,
            action: "make it",
            source,
        }),
        Err(source) => Err(IdentityError::Io {
            path,
            action: "read it",
            source,
        }),
    }
}

/// The identity of an agent that delivers nothing and so keeps nothing: the configured one, else the machine's, else one
/// for this time only.
///
/// # Errors
/// The system has no random bytes to give.
pub fn transient_agent_id(configured: Option<&AgentId>) -> io::Result<AgentId> {
    match configured {
        Some(id) => Ok(id.clone()),
        None => match read_machine_id(Path::new("/etc/machine-id")) {
            Some(id) => Ok(AgentId(id)),
            None => Ok(AgentId(random_id()?)),
        },
    }
}

/// 32 random hexadecimal digits.
///
/// # Errors
/// The system has no random bytes to give.
pub fn random_id() -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let mut id = String::with_capacity(32);
    for byte in random {
        write!(id, "{byte:02x}").expect("a string grows as needed");
    }
    Ok(id)
}

fn make(path: &Path) -> io::Result<AgentId> {
    let id = random_id()?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Renamed into place, so that a crash leaves no half of an identity.
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(AgentId(id))
}

/// A machine id that is one: 32 hexadecimal digits, not the `uninitialized` of an image that never booted.
fn read_machine_id(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim_end();
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// The host as alerts and hello name it. What the host does not say stays empty.
pub fn host(agent_id: &AgentId) -> Host {
    let read = |path| {
        fs::read_to_string(path)
            .map(|text| text.trim_end().to_owned())
            .unwrap_or_default()
    };
    Host {
        name: read("/proc/sys/kernel/hostname"),
        machine_id: read_machine_id(Path::new("/etc/machine-id")).unwrap_or_default(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: read("/proc/sys/kernel/osrelease"),
        agent_id: agent_id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let longest = "x".repeat(LENGTH_MAX);
        for good in ["a", "node-1.example_x", &longest] {
            assert_eq!(good.parse::<AgentId>().unwrap().as_str(), good);
        }
        let too_long = "x".repeat(LENGTH_MAX + 1);
        for bad in ["", "a b", "a/b", "ä", "a\n", &too_long] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad:?}");
        }
        assert!(
            "\x1b[2J"
                .parse::<AgentId>()
                .unwrap_err()
                .to_string()
                .starts_with("invalid agent id `\\u{1b}[2J`")
        );
    }

    #[test]
    fn the_machine_comes_before_chance_and_chance_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let machine_id = state.path().join("machine-id");
        let sources = Sources {
            machine_id: &machine_id,
            state_directory: &state.path().join("sub"),
        };
        let made = found_or_made(&sources).unwrap();
        assert_eq!(found_or_made(&sources).unwrap(), made);
        fs::write(&machine_id, "uninitialized\n").unwrap();
        assert_eq!(found_or_made(&sources).unwrap(), made);
        fs::write(&machine_id, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(
            found_or_made(&sources).unwrap().as_str(),
            "0123456789abcdef0123456789abcdef"
        );
        fs::remove_file(&machine_id).unwrap();
        fs::write(state.path().join("sub/agent-id"), "not an id").unwrap();
        assert!(matches!(found_or_made(&sources), Err(IdentityError::Invalid { .. })));
    }

    #[test]
    fn the_host_says_who_it_is() {
        let host = host(&"me".parse().unwrap());
        assert!(
            !host.name.is_empty() && !host.kernel.is_empty() && host.boot_id.len() == 36,
            "{host:?}"
        );
        assert_eq!(host.agent_id, "me");
    }
}
