//! The agent's configuration: a YAML file, then what the command line says.
//!
//! Everything is checked here. Behind this module a value is valid because it exists.

use crate::identity::AgentId;
use crate::logging::LogFormat;
use crate::observe::Output;
use crate::sandbox::Sandbox;
use crate::sensor::{HookChoice, LsmChoice, SensorConfig};
use crate::spool::SpoolConfig;
use crate::spool::queue::QueueLimits;
use axum::http::{Uri, uri::Scheme};
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};
use staghound_gate::yaml;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The whole configuration. Every key has a default; an unknown key is an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Identity of this agent. Default: `/etc/machine-id`, else a random one kept in the state directory.
    pub agent_id: Option<AgentId>,
    /// Where the agent keeps what must survive a restart: the spool and, if needed, its identity.
    pub state_directory: PathBuf,
    /// Collectors in order of preference, such as `https://collector:7400`; the next is tried when one fails.
    /// Default: none, and nothing is spooled.
    pub collectors: Vec<CollectorUrl>,
    /// Directories of rule packs loaded on top of the embedded ones.
    pub rules: Vec<PathBuf>,
    /// Logs on stderr.
    pub log: Log,
    /// The agent's own port for metrics and health.
    pub http: Http,
    /// The queue between matching and the spool.
    pub queue: Queue,
    /// The spool on disk.
    pub spool: Spool,
    /// Delivery to collectors.
    pub export: Export,
    /// Certificates for collectors that are `https://`.
    pub tls: Tls,
    /// Whether to give up privileges after the start: `on`, `off` or `required`.
    pub sandbox: Sandbox,
    /// What happens to whoever would stop or take over the agent: `notice` or `refuse`.
    pub guard: Guard,
    /// How alerts are shown on standard output: `text`, `json` or `none`. Default: `text`; `none` with a collector.
    #[serde(deserialize_with = "chosen")]
    pub output: Option<Output>,
    /// The programs in the kernel.
    pub sensor: SensorOptions,
}

/// Section `sensor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SensorOptions {
    /// Directory of a BPF file system to pin the programs in, so that they go on recording while the agent is restarted.
    pub pin: Option<PathBuf>,
    /// By which hook the ends of system calls are seen: `auto`, `raw` or `perf`.
    #[serde(deserialize_with = "choice")]
    pub hook: HookChoice,
    /// Whether programs on LSM hooks are used: `auto` or `off`.
    #[serde(deserialize_with = "choice")]
    pub lsm: LsmChoice,
    /// Programs to leave out.
    pub without: Vec<String>,
    /// Pass on what the programs log.
    pub debug: bool,
}

/// What happens to whoever would stop or take over the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// It is told.
    #[default]
    Notice,
    /// It is told, and refused where the kernel runs BPF LSM programs.
    Refuse,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as `info,staghound::spool=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// Section `http`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address and port, or `none` for no port.
    #[serde(deserialize_with = "listen")]
    pub listen: Option<SocketAddr>,
    /// Listen on an address that is not a loopback one although nothing is encrypted or authenticated.
    pub insecure: bool,
}

/// Section `queue`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Most items that wait to be spooled; what does not fit is counted and told as a gap.
    pub items_max: u32,
    /// Most bytes that wait to be spooled.
    #[serde(deserialize_with = "size")]
    pub bytes_max: u64,
}

/// Section `spool`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Most bytes on disk, at least `8MiB`; beyond, the oldest items of the lowest severity go and gaps are told in their
    /// place.
    #[serde(deserialize_with = "size")]
    pub bytes_max: u64,
    /// How much of it is only for alerts above medium severity, runs and gaps; at most half is.
    #[serde(deserialize_with = "size")]
    pub reserve_bytes: u64,
    /// Size of one segment, at least `64KiB`; what is acknowledged is freed by whole segments.
    #[serde(deserialize_with = "size")]
    pub segment_bytes: u64,
    /// How long what was acknowledged is kept, while there is room, for a collector that loses it again.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
}

/// Section `tls`. Files are read again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates of the authorities that may vouch for a collector, as PEM.
    pub ca: Option<PathBuf>,
    /// This agent's certificate and what it needs of its chain, as PEM.
    pub certificate: Option<PathBuf>,
    /// The certificate's key, as PEM.
    pub key: Option<PathBuf>,
    /// The name that a collector's certificate must have. Default: the host of its URL.
    pub server_name: Option<String>,
}

/// How batches are compressed on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By Zstandard.
    #[default]
    Zstd,
}

/// Section `export`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// Most items in one batch, 1 to 256.
    pub batch_items_max: u32,
    /// Most bytes in one batch, at most `1MiB`.
    #[serde(deserialize_with = "size")]
    pub batch_bytes_max: u64,
    /// How long items wait for others while an earlier batch is under way; the first one never waits.
    #[serde(deserialize_with = "duration")]
    pub batch_wait: Duration,
    /// How batches are compressed: `none`, `gzip` or `zstd`; less where a collector cannot do it.
    pub compression: Compression,
    /// Deliver over `http://` to collectors that are not on loopback, readable and forgeable by everybody between.
    pub insecure_plaintext: bool,
    /// How long to wait for a connection.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// How long to wait for a welcome or an acknowledgement.
    #[serde(deserialize_with = "duration")]
    pub ack_timeout: Duration,
    /// How often an idle connection is probed.
    #[serde(deserialize_with = "duration")]
    pub keepalive: Duration,
    /// Shortest pause after every collector failed; it doubles with each round.
    #[serde(deserialize_with = "duration")]
    pub backoff_min: Duration,
    /// Longest pause after every collector failed.
    #[serde(deserialize_with = "duration")]
    pub backoff_max: Duration,
    /// How long to go on delivering when the agent stops; the spool keeps the rest.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent_id: None,
            state_directory: PathBuf::from("/var/lib/staghound"),
            collectors: Vec::new(),
            rules: Vec::new(),
            log: Log::default(),
            http: Http::default(),
            queue: Queue::default(),
            spool: Spool::default(),
            export: Export::default(),
            tls: Tls::default(),
            sandbox: Sandbox::default(),
            guard: Guard::default(),
            output: None,
            sensor: SensorOptions::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
            insecure: false,
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            items_max: 16 * 1024,
            bytes_max: 16 * 1024 * 1024,
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        let SpoolConfig {
            bytes_max,
            reserve_bytes,
            segment_bytes,
            retention,
        } = SpoolConfig::default();
        Self {
            bytes_max,
            reserve_bytes,
            segment_bytes,
            retention,
        }
    }
}

impl Default for Export {
    fn default() -> Self {
        Self {
            batch_items_max: 256,
            batch_bytes_max: 1024 * 1024,
            batch_wait: Duration::from_millis(10),
            compression: Compression::default(),
            insecure_plaintext: false,
            connect_timeout: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(20),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What the command line says; it goes before the file. Lists that are given replace those of the file, except that rule
/// directories are added.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--agent-id`.
    pub agent_id: Option<AgentId>,
    /// `--state-directory`.
    pub state_directory: Option<PathBuf>,
    /// `--collector`, repeatable.
    pub collectors: Vec<CollectorUrl>,
    /// `--rules`, repeatable.
    pub rules: Vec<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--http-listen`; the inner value is `None` for `none`.
    pub http_listen: Option<Option<SocketAddr>>,
    /// `--insecure-http`.
    pub insecure_http: bool,
    /// `--insecure-plaintext`.
    pub insecure_plaintext: bool,
    /// `--output`.
    pub output: Option<Output>,
    /// `--pin`.
    pub pin: Option<PathBuf>,
    /// `--sensor-hook`.
    pub sensor_hook: Option<HookChoice>,
    /// `--sensor-lsm`.
    pub sensor_lsm: Option<LsmChoice>,
    /// `--sensor-without`, repeatable.
    pub sensor_without: Vec<String>,
    /// `--sensor-debug`.
    pub sensor_debug: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {}: {source}; name a readable file with --config", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("configuration {}: longer than {FILE_BYTES_MAX} bytes; is it the right file?", .0.display())]
    TooLong(PathBuf),
    /// The file is not what it should be.
    #[error(transparent)]
    Invalid(#[from] yaml::Invalid),
    /// A value is outside its limits, or two do not go together.
    #[error("configuration: `{key}` {message}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Config {
    /// Reads the file, if one is named, lets the command line override it and checks the whole.
    ///
    /// # Errors
    /// The file cannot be read or has a mistake, or a value is outside its limits.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let config = match file {
            Some(path) => Self::parse(path, &read(path)?)?,
            None => Self::default(),
        };
        let config = config.overridden(overrides);
        config.check()?;
        Ok(config)
    }

    /// Parses the text of a file; `path` is only named in errors.
    ///
    /// # Errors
    /// The text has a mistake.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        // A file of comments only is an empty document, and means the defaults.
        Ok(yaml::parse(path, text)?.unwrap_or_default())
    }

    fn overridden(mut self, overrides: Overrides) -> Self {
        self.agent_id = overrides.agent_id.or(self.agent_id);
        self.state_directory = overrides.state_directory.unwrap_or(self.state_directory);
        if !overrides.collectors.is_empty() {
            self.collectors = overrides.collectors;
        }
        self.rules.extend(overrides.rules);
        self.log.level = overrides.log_level.unwrap_or(self.log.level);
        self.log.format = overrides.log_format.unwrap_or(self.log.format);
        self.http.listen = overrides.http_listen.unwrap_or(self.http.listen);
        self.http.insecure |= overrides.insecure_http;
        self.export.insecure_plaintext |= overrides.insecure_plaintext;
        self.output = overrides.output.or(self.output);
        self.sensor.pin = overrides.pin.or(self.sensor.pin);
        self.sensor.hook = overrides.sensor_hook.unwrap_or(self.sensor.hook);
        self.sensor.lsm = overrides.sensor_lsm.unwrap_or(self.sensor.lsm);
        if !overrides.sensor_without.is_empty() {
            self.sensor.without = overrides.sensor_without;
        }
        self.sensor.debug |= overrides.sensor_debug;
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, message: &str| {
            Err(ConfigError::Value {
                key,
                message: message.to_owned(),
            })
        };
        let Export {
            batch_items_max,
            batch_bytes_max,
            backoff_min,
            backoff_max,
            ..
        } = &self.export;
        if self.state_directory.as_os_str().is_empty() {
            return fail("state_directory", "is empty; name a directory");
        }
        if self.sensor.pin.as_ref().is_some_and(|pin| pin.as_os_str().is_empty()) {
            return fail(
                "sensor.pin",
                "is empty; name a directory below /sys/fs/bpf, or leave it out",
            );
        }
        if self.queue.items_max == 0 {
            return fail("queue.items_max", "is 0; at least 1 item must fit");
        }
        if self.queue.bytes_max < 1024 * 1024 {
            return fail(
                "queue.bytes_max",
                "is below 1MiB, the size of the longest item; use at least 1MiB",
            );
        }
        if self.spool.bytes_max < 8 * 1024 * 1024 {
            return fail(
                "spool.bytes_max",
                "is below 8MiB, which is no room for a burst; use at least 8MiB",
            );
        }
        if !(64 * 1024..=64 * 1024 * 1024).contains(&self.spool.segment_bytes) {
            return fail("spool.segment_bytes", "is not between 64KiB and 64MiB");
        }
        if !(1..=256).contains(batch_items_max) {
            return fail("export.batch_items_max", "is not between 1 and 256");
        }
        if !(1..=1024 * 1024).contains(batch_bytes_max) {
            return fail("export.batch_bytes_max", "is not between 1B and 1MiB");
        }
        for (key, timeout) in [
            ("export.connect_timeout", self.export.connect_timeout),
            ("export.ack_timeout", self.export.ack_timeout),
            ("export.keepalive", self.export.keepalive),
            ("export.backoff_min", *backoff_min),
        ] {
            if timeout.is_zero() {
                return fail(key, "is 0; use at least 1ms");
            }
        }
        if backoff_min > backoff_max {
            return fail("export.backoff_min", "is longer than `export.backoff_max`; swap them");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return fail("tls", "has only one of `certificate` and `key`; name both, or neither");
        }
        for collector in &self.collectors {
            if collector.is_encrypted() && self.tls.ca.is_none() {
                return fail(
                    "tls.ca",
                    "is missing, and a collector is https; name the file with the certificate of the authority that made its certificate",
                );
            }
            if !collector.is_encrypted() && !collector.is_loopback() && !self.export.insecure_plaintext {
                return Err(ConfigError::Value {
                    key: "collectors",
                    message: format!(
                        "has {collector}, which is neither encrypted nor on loopback: everybody between could read and forge alerts; \
                         use https, or say `export.insecure_plaintext: true` (--insecure-plaintext) if the network is trusted"
                    ),
                });
            }
        }
        Ok(())
    }

    /// What a sensor for the whole host is started with; `observe` also pins it.
    pub fn sensor_config(&self) -> SensorConfig {
        let SensorOptions {
            pin: _,
            hook,
            lsm,
            without,
            debug,
        } = &self.sensor;
        SensorConfig {
            scoped: false,
            without: without.clone(),
            debug: *debug,
            hook: *hook,
            lsm: *lsm,
            pin: None,
            refuse: false,
        }
    }

    /// Where the spool is kept.
    pub fn spool_directory(&self) -> PathBuf {
        self.state_directory.join("spool")
    }

    /// Sizes of the spool.
    pub fn spool_config(&self) -> SpoolConfig {
        SpoolConfig {
            bytes_max: self.spool.bytes_max,
            reserve_bytes: self.spool.reserve_bytes,
            segment_bytes: self.spool.segment_bytes,
            retention: self.spool.retention,
        }
    }

    /// Limits of the queue before the spool.
    pub fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            items_max: usize::try_from(self.queue.items_max).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(self.queue.bytes_max).unwrap_or(usize::MAX),
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let error = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(error)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(error)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(ConfigError::TooLong(path.to_owned())),
        false => Ok(text),
    }
}

/// Where a collector is: `https://host:port`, or `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl(Uri);

/// A text that names no collector.
#[derive(Debug, thiserror::Error)]
#[error("invalid collector `{}`: {why}", .text.escape_debug())]
pub struct InvalidCollectorUrl {
    text: String,
    why: &'static str,
}

impl CollectorUrl {
    /// The URL for a client.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// The same for a client that gets its connections from elsewhere and need not know of TLS.
    pub fn plain_uri(&self) -> Uri {
        let mut parts = self.0.clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        Uri::from_parts(parts).expect("only the scheme is another")
    }

    /// Whether TLS is spoken.
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Whether nobody else is between.
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for CollectorUrl {
    type Err = InvalidCollectorUrl;

    fn from_str(text: &str) -> Result<Self, InvalidCollectorUrl> {
        let invalid = |why| InvalidCollectorUrl {
            text: text.to_owned(),
            why,
        };
        let uri: Uri = text
            .parse()
            .map_err(|_| invalid("not a URL; write `https://host:port`"))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(_) | None => return Err(invalid("the scheme must be https or http; write `https://host:port`")),
        }
        let Some(authority) = uri.authority() else {
            return Err(invalid("no host; write `https://host:port`"));
        };
        if authority.as_str().contains('@') {
            return Err(invalid(
                "user names and passwords are not supported; write `https://host:port`",
            ));
        }
        if authority.host().is_empty() || authority.port_u16().is_none() {
            return Err(invalid("no port; write `https://host:port`"));
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(invalid("a path is not supported; write `https://host:port`"));
        }
        Ok(Self(uri))
    }
}

impl<'de> Deserialize<'de> for CollectorUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Parses an address to listen on, or `none`.
///
/// # Errors
/// It is neither.
pub fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "none" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            format!(
                "invalid address `{}`; write address:port such as 127.0.0.1:9464, or none",
                text.escape_debug()
            )
        }),
    }
}

/// Parses a size such as `64MiB`. A number alone counts bytes.
///
/// # Errors
/// It is none, or too large.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    scaled(text, |unit| {
        units
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, shift)| 1 << shift)
    })
    .ok_or_else(|| {
        format!(
            "invalid size `{}`; write a whole number and B, KiB, MiB or GiB, such as 64MiB",
            text.escape_debug()
        )
    })
}

/// Parses a duration such as `5s`.
///
/// # Errors
/// It is none, or longer than a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    scaled(text, |unit| {
        units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
    })
    .filter(|&milliseconds| milliseconds <= 24 * 3_600_000)
    .map(Duration::from_millis)
    .ok_or_else(|| {
        format!(
            "invalid duration `{}`; write a whole number and ms, s, m or h, such as 5s, up to 24h",
            text.escape_debug()
        )
    })
}

fn scaled(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    number.parse::<u64>().ok()?.checked_mul(factor(unit.trim_start())?)
}

/// One of several words, as on the command line.
fn choice<'de, D: Deserializer<'de>, T: ValueEnum>(deserializer: D) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?;
    T::from_str(&word, false).map_err(|_| {
        let known: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|value| Some(format!("`{}`", value.to_possible_value()?.get_name())))
            .collect();
        D::Error::custom(format!("unknown value `{word}`; write {}", known.join(" or ")))
    })
}

/// The same where it need not be said.
fn chosen<'de, D: Deserializer<'de>, T: ValueEnum>(deserializer: D) -> Result<Option<T>, D::Error> {
    choice(deserializer).map(Some)
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    parse_listen(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A size may be written with a unit or as a plain number.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Size;

    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as 64MiB")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let config = Config::parse(Path::new("agent.yaml"), text)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn every_key() {
        let config = parse(
            "agent_id: node-1\nstate_directory: /tmp/s\ncollectors: [\"http://127.0.0.1:7400\", 'https://[::1]:1']\nrules: [/etc/r]\n\
             log: {level: debug, format: json}\nhttp: {listen: none, insecure: true}\n\
             queue: {items_max: 5, bytes_max: 2MiB}\nspool: {bytes_max: 1GiB, reserve_bytes: 1MiB, segment_bytes: 65536, retention: 1h}\n\
             export:\n  batch_items_max: 10\n  batch_bytes_max: 100 KiB\n  batch_wait: 1ms\n  compression: gzip\n  \
             insecure_plaintext: true\n  connect_timeout: 1s\n  ack_timeout: 2m\n  \
             keepalive: 1h\n  backoff_min: 5ms\n  backoff_max: 6ms\n  drain_timeout: 0s\n\
             tls: {ca: /ca, certificate: /cert, key: /key, server_name: collector}\nsandbox: required\nguard: refuse\noutput: json\n\
             sensor: {pin: /sys/fs/bpf/s, hook: perf, lsm: off, without: [socket_length], debug: true}\n",
        )
        .unwrap();
        let expected = Config {
            agent_id: Some("node-1".parse().unwrap()),
            state_directory: "/tmp/s".into(),
            collectors: vec![
                "http://127.0.0.1:7400".parse().unwrap(),
                "https://[::1]:1".parse().unwrap(),
            ],
            rules: vec!["/etc/r".into()],
            log: Log {
                level: "debug".to_owned(),
                format: LogFormat::Json,
            },
            http: Http {
                listen: None,
                insecure: true,
            },
            queue: Queue {
                items_max: 5,
                bytes_max: 2 << 20,
            },
            spool: Spool {
                bytes_max: 1 << 30,
                reserve_bytes: 1 << 20,
                segment_bytes: 65536,
                retention: Duration::from_secs(3600),
            },
            export: Export {
                batch_items_max: 10,
                batch_bytes_max: 100 << 10,
                batch_wait: Duration::from_millis(1),
                compression: Compression::Gzip,
                insecure_plaintext: true,
                connect_timeout: Duration::from_secs(1),
                ack_timeout: Duration::from_secs(120),
                keepalive: Duration::from_secs(3600),
                backoff_min: Duration::from_millis(5),
                backoff_max: Duration::from_millis(6),
                drain_timeout: Duration::ZERO,
            },
            tls: Tls {
                ca: Some("/ca".into()),
                certificate: Some("/cert".into()),
                key: Some("/key".into()),
                server_name: Some("collector".to_owned()),
            },
            sandbox: Sandbox::Required,
            guard: Guard::Refuse,
            output: Some(Output::Json),
            sensor: SensorOptions {
                pin: Some("/sys/fs/bpf/s".into()),
                hook: HookChoice::Perf,
                lsm: LsmChoice::Off,
                without: vec!["socket_length".to_owned()],
                debug: true,
            },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_example_file_says_the_defaults() {
        let text = include_str!("../../deploy/staghound.yaml");
        assert_eq!(parse(text).unwrap(), Config::default());
        // It says that it has every key: each is there, as a value or, where there is no default, as a comment.
        for key in [
            "# agent_id:",
            "state_directory:",
            "collectors:",
            "rules:",
            "log:",
            "  level:",
            "  format:",
            "http:",
            "  listen:",
            "  insecure:",
            "queue:",
            "  items_max:",
            "  bytes_max:",
            "spool:",
            "  reserve_bytes:",
            "  segment_bytes:",
            "  retention:",
            "export:",
            "  batch_items_max:",
            "  batch_bytes_max:",
            "  batch_wait:",
            "  compression:",
            "  insecure_plaintext:",
            "  connect_timeout:",
            "  ack_timeout:",
            "  keepalive:",
            "  backoff_min:",
            "  backoff_max:",
            "  drain_timeout:",
            "# tls:",
            "#   ca:",
            "#   certificate:",
            "#   key:",
            "#   server_name:",
            "sandbox:",
            "guard:",
            "# output:",
            "sensor:",
            "  # pin:",
            "  hook:",
            "  lsm:",
            "  without:",
            "  debug:",
        ] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{key}");
        }
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        for text in ["", "\n", "# only a comment\n", "{}"] {
            assert_eq!(parse(text).unwrap(), Config::default(), "{text:?}");
        }
    }

    #[test]
    fn mistakes_say_where_and_what_instead() {
        for (text, expected) in [
            (
                "colector: x\n",
                "agent.yaml:1:1: unknown key `colector`; valid here: agent_id, state_directory, collectors,",
            ),
            (
                "log:\n  levle: x\n",
                "agent.yaml:2:3: unknown key `levle`; valid here: level, format",
            ),
            (
                "spool:\n  bytes_max: 5MB\n",
                "agent.yaml:2:14: invalid size `5MB`; write",
            ),
            (
                "export: {ack_timeout: 5}\n",
                "agent.yaml:1:23: invalid duration `5`; write",
            ),
            (
                "http:\n  listen: here\n",
                "agent.yaml:2:11: invalid address `here`; write",
            ),
            (
                "collectors: [\"https://a:1\"]\n",
                "configuration: `tls.ca` is missing, and a collector is https; name",
            ),
            (
                "collectors: [\"http://a:1\"]\n",
                "configuration: `collectors` has http://a:1/, which is neither encrypted nor on loopback",
            ),
            (
                "collectors: [\"ftp://a:1\"]\n",
                "agent.yaml:1:14: invalid collector `ftp://a:1`: the scheme must be https or http",
            ),
            ("tls: {key: /k}\n", "configuration: `tls` has only one of"),
            ("export: {compression: lzma}\n", "agent.yaml:1:23: "),
            ("collectors:\n  - a:1\n", "agent.yaml:2:5: invalid collector `a:1`: "),
            ("agent_id: \"a b\"\n", "agent.yaml:1:11: invalid agent id `a b`; use"),
            ("log: {format: xml}\n", "agent.yaml:1:15: "),
            ("sandbox: yes\n", "agent.yaml:1:10: "),
            (
                "sensor: {hook: kprobe}\n",
                "agent.yaml:1:16: unknown value `kprobe`; write `auto` or `raw` or `perf`",
            ),
            ("sensor: {pin: \"\"}\n", "configuration: `sensor.pin` is empty"),
            ("log: [\n", "agent.yaml:"),
            (
                "spool: {bytes_max: 1MiB}\n",
                "configuration: `spool.bytes_max` is below 8MiB",
            ),
            (
                "spool: {segment_bytes: 1}\n",
                "configuration: `spool.segment_bytes` is not between",
            ),
            (
                "export: {batch_items_max: 257}\n",
                "configuration: `export.batch_items_max` is not between",
            ),
            ("export: {keepalive: 0s}\n", "configuration: `export.keepalive` is 0"),
            (
                "export: {backoff_min: 1h}\n",
                "configuration: `export.backoff_min` is longer",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(expected),
                "{text:?}\n  gave {error}\n  not  {expected}"
            );
            assert!(!error.contains('\n'), "{error:?}");
        }
        let error = Config::load(Some(Path::new("/nonexistent/agent.yaml")), Overrides::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("configuration /nonexistent/agent.yaml: No such file"),
            "{error}"
        );
    }

    #[test]
    fn the_command_line_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.yaml");
        fs::write(
            &file,
            "rules: [/a]\ncollectors: [\"http://localhost:1\"]\nlog: {level: debug}\noutput: text\n\
             sensor: {pin: /sys/fs/bpf/a, hook: raw, lsm: off}\n",
        )
        .unwrap();
        let overrides = Overrides {
            rules: vec!["/b".into()],
            collectors: vec!["http://b:2".parse().unwrap()],
            insecure_plaintext: true,
            http_listen: Some(None),
            output: Some(Output::None),
            pin: Some("/sys/fs/bpf/b".into()),
            sensor_hook: Some(HookChoice::Auto),
            ..Overrides::default()
        };
        let config = Config::load(Some(&file), overrides).unwrap();
        assert_eq!(config.rules, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config.collectors, ["http://b:2".parse().unwrap()]);
        assert_eq!((config.http.listen, config.log.level.as_str()), (None, "debug"));
        assert_eq!(config.output, Some(Output::None));
        assert_eq!(config.sensor.pin, Some("/sys/fs/bpf/b".into()));
        assert_eq!(
            (config.sensor.hook, config.sensor.lsm),
            (HookChoice::Auto, LsmChoice::Off)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC*|([a-z_]{1,8}: ?[\\[{]?[a-z0-9]{0,4}\n? {0,2}){0,6}") {
            drop(parse(&text));
            drop(parse_size(&text));
            drop(parse_duration(&text));
            drop(text.parse::<CollectorUrl>());
        }
    }
}
