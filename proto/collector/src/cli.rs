//! The command line.

use crate::{
    VERSION,
    collector::{Collector, Config},
    security::{
        certs::{self, Wanted},
        tls::Files,
    },
    sinks::SinkConfig,
    store::Retention,
    tail,
};
use anyhow::Context as _;
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use staghound_proto::v1::Severity;
use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Expressions of filters are evaluated by calls within calls; what is not used costs no memory.
pub(crate) const STACK_BYTES: usize = 8 << 20;

/// Receives alerts from Staghound agents, stores them durably and streams them to consumers.
#[derive(Debug, Parser)]
#[command(name = "staghound-collector", version = VERSION, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    /// What to log: error, warn, info, debug, trace, or a tracing filter such as `staghound_collector=debug`
    #[arg(long, global = true, env = "STAGHOUND_LOG", default_value = "info")]
    log: String,
    /// How to log, always to standard error
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    log_format: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector until SIGTERM or SIGINT
    ///
    /// Agents deliver to IngestService, consumers subscribe to FeedService, both on --listen. What an agent was
    /// acknowledged is on disk under --data and survives a crash at any moment.
    #[command(
        after_help = "Example:\n  staghound-collector serve --data /var/lib/staghound-collector --retention-age 7d"
    )]
    Serve(ServeArgs),
    /// Print alerts as they are stored
    ///
    /// Connects to a collector's feed, reconnects when it goes away, and resumes where it was. Gaps (declared losses)
    /// and run records are shown too, unless --alerts-only is given.
    #[command(
        after_help = "Examples:\n  staghound-collector tail --from earliest --min-severity high\n  staghound-collector tail --technique T1003 --output json --cursor-file ./cursor | jq .message"
    )]
    Tail(TailArgs),
    /// Certificates
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  staghound-collector completions bash > /etc/bash_completion.d/staghound-collector"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make a throw-away authority with certificates for the collector, an agent and a consumer
    ///
    /// To try TLS out. Whoever has the directory can pose as any agent and any consumer.
    #[command(
        after_help = "Example:\n  staghound-collector certs dev ./certs --host collector.example --agent node-1\n  staghound-collector serve --listen 0.0.0.0:50051 --tls-cert certs/server.pem --tls-key certs/server.key --tls-client-ca certs/ca.pem"
    )]
    Dev(CertsDevArgs),
}

#[derive(Debug, Args)]
struct CertsDevArgs {
    /// Where to; made when it does not exist
    directory: PathBuf,
    /// Name or address that the collector is reached by, besides localhost, 127.0.0.1 and ::1; may be repeated
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Id of an agent, as in its configuration; may be repeated
    #[arg(long, value_name = "ID", default_value = "agent")]
    agent: Vec<String>,
    /// Name of a consumer; may be repeated
    #[arg(long, value_name = "NAME", default_value = "consumer")]
    consumer: Vec<String>,
    /// How long they hold
    #[arg(long, value_name = "AGE", default_value = "90d", value_parser = duration)]
    validity: Duration,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Address for gRPC; port 0 takes a free one, which is logged
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Address for /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9465")]
    http: SocketAddr,
    /// Serve no /metrics, /healthz and /readyz
    #[arg(long, conflicts_with = "http")]
    no_http: bool,
    /// Directory of the store; made when it does not exist; one collector at a time may use it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/staghound-collector")]
    data: PathBuf,
    /// Remove entries stored longer ago than this, such as 12h or 30d; `none` keeps them
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = age)]
    retention_age: Limit<Duration>,
    /// Remove the oldest entries when all together are larger than this, such as 512MiB or 8GiB; `none` keeps them
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = size)]
    retention_bytes: Limit<u64>,
    /// Most items an agent may have sent without an acknowledgement
    #[arg(long, value_name = "ITEMS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: u32,
    /// Most agents connected at once
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    agents_max: usize,
    /// What one agent may deliver per second; more waits in its spool
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = rate)]
    agent_rate: u64,
    /// Most subscribers connected at once
    #[arg(long, value_name = "COUNT", default_value_t = 1024)]
    subscribers_max: usize,
    /// The server's certificate in PEM, those that vouch for it after it; read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_client_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who vouches for agents and consumers, in PEM. Their certificates name them by a URI: staghound://agent/ID may
    /// deliver as that agent, staghound://consumer/NAME may read
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Given twice: serve gRPC without encryption on addresses that other machines can reach. Anyone there can read
    /// and forge alerts
    #[arg(long, action = ArgAction::Count, conflicts_with = "tls_cert")]
    insecure_plaintext: u8,
    /// Serve metrics and health on an address that other machines can reach
    #[arg(long)]
    insecure_http: bool,
    /// Send on what is stored, from where this name was: NAME=ocsf:FILE (- is standard output),
    /// NAME=syslog+tcp:HOST:PORT, NAME=syslog+tls:HOST:PORT,ca=FILE, NAME=otlp:URL or
    /// NAME=webhook:URL,secret=FILE,ca=FILE; may be repeated
    #[arg(long, value_name = "SINK")]
    sink: Vec<SinkConfig>,
    /// Most connections at once
    #[arg(long, value_name = "COUNT", default_value_t = 8192)]
    connections_max: usize,
    /// How long a connection lasts before the peer must connect again, such as 30m
    #[arg(long, value_name = "AGE", default_value = "1h", value_parser = duration)]
    connection_age: Duration,
    /// Write the addresses here once they are served: the gRPC address on the first line, the HTTP one on the second
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

/// What `tail` prints, from where and how long.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The collector
    #[arg(
        long,
        value_name = "URL",
        env = "STAGHOUND_COLLECTOR",
        default_value = "http://127.0.0.1:50051"
    )]
    pub(crate) url: String,
    /// Who vouches for the collector, in PEM; needed for https
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate in PEM, which names us by the URI staghound://consumer/NAME
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) key: Option<PathBuf>,
    /// Where to start: earliest, latest, or a cursor from an earlier entry
    #[arg(long, value_name = "POSITION", default_value = "latest")]
    pub(crate) from: String,
    /// Only alerts of this severity or worse
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub(crate) min_severity: Option<SeverityArg>,
    /// Only alerts with this ATT&CK technique; T1003 includes T1003.008; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) technique: Vec<String>,
    /// Only alerts of the rule with this id; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) rule: Vec<String>,
    /// Only entries from this host; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// Only alerts and run records of this run; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) run: Vec<String>,
    /// Only alerts of this Kubernetes namespace; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Vec<String>,
    /// Only alerts for which this CEL expression is true, such as "process.name == 'curl' && severity >= 3"
    #[arg(long, value_name = "CEL")]
    pub(crate) expression: Option<String>,
    /// Leave out gaps and run records
    #[arg(long)]
    pub(crate) alerts_only: bool,
    /// How to print; json is one line of canonical proto3 JSON per entry: the Alert, or the whole Entry for a gap or run record
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Exit after so many entries
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Exit after so long; an error when --count was not reached
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Resume at the cursor in this file, if there is one, and keep the position there
    #[arg(long, value_name = "FILE")]
    pub(crate) cursor_file: Option<PathBuf>,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// A severity on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SeverityArg {
    /// Worth knowing, nothing to do
    Informational,
    /// Unusual; interesting together with others
    Low,
    /// Suspicious; somebody should look
    Medium,
    /// Malicious unless explained
    High,
    /// Malicious beyond reasonable doubt, or damage is done
    Critical,
}

impl From<SeverityArg> for Severity {
    fn from(severity: SeverityArg) -> Self {
        match severity {
            SeverityArg::Informational => Self::Informational,
            SeverityArg::Low => Self::Low,
            SeverityArg::Medium => Self::Medium,
            SeverityArg::High => Self::High,
            SeverityArg::Critical => Self::Critical,
        }
    }
}

/// A limit or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit<T>(Option<T>);

fn age(text: &str) -> Result<Limit<Duration>, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)];
    quantity(text, &units, "a number with s, m, h or d, such as 30d")
        .map(|limit| Limit(limit.0.map(Duration::from_secs)))
}

fn size(text: &str) -> Result<Limit<u64>, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("B", 1),
    ];
    quantity(text, &units, "a number with B, KiB, MiB, GiB or TiB, such as 8GiB")
}

fn duration(text: &str) -> Result<Duration, String> {
    age(text)?
        .0
        .ok_or_else(|| "write a number with s, m, h or d, such as 30m".to_owned())
}

fn files(certificate: Option<PathBuf>, key: Option<PathBuf>, client_ca: Option<PathBuf>) -> Option<Files> {
    Some(Files {
        certificate: certificate?,
        key: key?,
        client_ca: client_ca?,
    })
}

fn rate(text: &str) -> Result<u64, String> {
    size(text)?
        .0
        .ok_or_else(|| "write a number with B, KiB, MiB or GiB, such as 64MiB".to_owned())
}

fn quantity(text: &str, units: &[(&str, u64)], expected: &str) -> Result<Limit<u64>, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        number
            .parse::<u64>()
            .ok()
            .filter(|number| digits && *number > 0)?
            .checked_mul(*factor)
    });
    parsed
        .map(|value| Limit(Some(value)))
        .ok_or_else(|| format!("write {expected}, or none"))
}

/// Runs the program; the exit code is 0, 1 for errors and 2 for a wrong command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code still tells.
            drop(writeln!(io::stderr(), "staghound-collector: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let log = start_log(&cli.log, cli.log_format);
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "staghound-collector", &mut script);
            io::stdout()
                .write_all(&script)
                .context("cannot write to standard output")
        }
        Command::Certs(CertsCommand::Dev(args)) => {
            let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            let made = certs::make(&Wanted {
                directory: args.directory,
                hosts: local.into_iter().chain(args.host).collect(),
                agents: args.agent,
                consumers: args.consumer,
                validity: args.validity,
                force: args.force,
            })?;
            let paths: String = made.iter().map(|path| format!("{}\n", path.display())).collect();
            io::stdout()
                .write_all(paths.as_bytes())
                .context("cannot write to standard output")
        }
        Command::Serve(args) => {
            log?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .thread_stack_size(STACK_BYTES)
                .enable_all()
                .build()
                .context("cannot start threads; check the limits of this process")?;
            runtime.block_on(serve(args))
        }
        Command::Tail(args) => {
            log?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start")?;
            runtime.block_on(tail::run(args))
        }
    }
}

fn start_log(filter: &str, format: Output) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .with_context(|| format!("--log {filter:?} is no filter; use error, warn, info, debug or trace"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        Output::Text => log
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .init(),
        Output::Json => log.json().init(),
    }
    Ok(())
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    // Before anything is served, so that no signal is missed.
    let listen = "cannot listen for signals";
    let mut terminate = signal(SignalKind::terminate()).context(listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(listen)?;
    let config = Config {
        listen: args.listen,
        http: (!args.no_http).then_some(args.http),
        retention: Retention {
            age: args.retention_age.0,
            bytes: args.retention_bytes.0,
        },
        tls: files(args.tls_cert, args.tls_key, args.tls_client_ca),
        insecure_plaintext: args.insecure_plaintext >= 2,
        insecure_http: args.insecure_http,
        sinks: args.sink,
        connections_max: args.connections_max,
        connection_age: args.connection_age,
        window: args.window,
        agents_max: args.agents_max,
        agent_bytes_per_second: args.agent_rate,
        subscribers_max: args.subscribers_max,
        ..Config::new(args.data)
    };
    let collector = Collector::start(config).await?;
    if let Some(path) = &args.port_file {
        let http = collector
            .http_address()
            .map(|address| format!("{address}\n"))
            .unwrap_or_default();
        let written = tail::write_atomically(path, &format!("{}\n{http}", collector.grpc_address()));
        if let Err(error) = written {
            collector.shutdown().await;
            return Err(error).with_context(|| format!("cannot write the port file {}", path.display()));
        }
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::select! {
        () = collector.shutdown() => Ok(()),
        _ = terminate.recv() => anyhow::bail!("second signal: ended at once; what was acknowledged is safe"),
        _ = interrupt.recv() => anyhow::bail!("second signal: ended at once; what was acknowledged is safe"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn limits() {
        for (text, seconds) in [
            ("none", None),
            ("1s", Some(1)),
            ("5m", Some(300)),
            ("30d", Some(2_592_000)),
        ] {
            assert_eq!(age(text), Ok(Limit(seconds.map(Duration::from_secs))), "{text}");
        }
        for (text, bytes) in [
            ("none", None),
            ("7B", Some(7)),
            ("64MiB", Some(64 << 20)),
            ("8GiB", Some(8 << 30)),
        ] {
            assert_eq!(size(text), Ok(Limit(bytes)), "{text}");
        }
        for bad in ["", "5", "0d", "-1d", "1.5d", "d", "5 d", "99999999999999999999d", "+1d"] {
            assert!(age(bad).unwrap_err().contains("such as 30d"), "{bad}");
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("18446744073709551615KiB").is_err());
    }
}
