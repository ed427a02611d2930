//! The command line.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Result;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use staghound_engine::ruleset::Severity;
use staghound_gate::policy::Policy;

use crate::{
    attest::{self, AttestCommand},
    config::{self, CollectorUrl, Config, Overrides},
    coverage,
    identity::AgentId,
    logging::{self, LogFormat},
    observe::{self, Output},
    packs, policy,
    preflight::{self, Preflight, Status},
    report::{self, ReportArgs},
    rules, run,
    sensor::{self, HookChoice, LsmChoice, PIN_DIRECTORY, Sensor},
};

/// Watches in the kernel what software does on this host, matches it against rules tagged with MITRE ATT&CK techniques,
/// and streams alerts; or wraps a build and judges it.
///
/// Try it: `staghound observe`, then `cat /etc/shadow` as root in another shell.
#[derive(Parser)]
#[command(name = "staghound", version = version(), about, long_about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch the whole host and show or deliver alerts.
    ///
    /// Runs until SIGTERM or SIGINT, then drains. Needs root, or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and
    /// CAP_DAC_READ_SEARCH.
    #[command(after_long_help = OBSERVE_EXAMPLES)]
    Observe(ObserveArgs),
    /// Run a command, watch it and everything it starts, and judge it.
    ///
    /// The command keeps its standard streams; a summary goes to standard error.
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Tell a run again that was reported as JSON: as text, Markdown, SARIF, JUnit, HTML, ….
    Report(ReportArgs),
    /// Sign and verify what is said about a run: in-toto statements, as cosign verifies them.
    Attest {
        #[command(subcommand)]
        command: AttestCommand,
    },
    /// Show, check and explain what a run may do.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Check, test, list, show and explain rules, and the fields they can use.
    Rules {
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Tell what this host can and cannot do for the agent, and why.
    ///
    /// Loads the programs for a moment. Exits 0 when the agent can run here, 1 when it cannot.
    Preflight {
        #[command(flatten)]
        common: CommonArgs,
        /// As text for people or as JSON for programs.
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
        output: PreflightOutput,
        /// Instead, tell what will be recorded for the rules, and why.
        #[arg(long)]
        plan: bool,
        /// With --plan: rule files or directories of them, on top of the embedded packs. May be repeated.
        #[arg(long, value_name = "DIR")]
        rules: Vec<PathBuf>,
    },
    /// Remove everything that `observe --pin` left in the kernel. Nothing is recorded from then on.
    Unpin {
        /// Where it was pinned.
        #[arg(value_name = "DIR", default_value = PIN_DIRECTORY)]
        directory: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

const OBSERVE_EXAMPLES: &str = "Examples:
  staghound observe                                   alerts as text
  staghound observe --output json | jq .message       one staghound.v1.Alert per line
  staghound observe --collector http://127.0.0.1:50051 --output none
  staghound observe --rules /etc/staghound/rules      own rules on top of the embedded ones";

const RUN_EXAMPLES: &str = "Exit codes:
  the command's own, or 128+n when signal n ended it, 127 when it was not found, 126 when it may not be run
  100  an alert at or above --fail-on was raised
  102  events were lost, or processes outlived the command, so nobody knows (inconclusive)
  103  staghound itself failed, or was called wrongly

Examples:
  staghound run -- make test
  staghound run --fail-on critical -- npm ci";

#[derive(Args)]
struct CommonArgs {
    /// Configuration file (YAML). Options given here go before it.
    #[arg(long, value_name = "FILE", env = "STAGHOUND_CONFIG")]
    config: Option<PathBuf>,
    /// Where the spool and the agent's identity are kept [default: /var/lib/staghound].
    #[arg(long, alias = "state-dir", value_name = "DIR")]
    state_directory: Option<PathBuf>,
    /// Leave a program out, by the name `staghound preflight` gives it; its events will be missing.
    #[arg(long = "sensor-without", value_name = "PROGRAM")]
    sensor_without: Vec<String>,
    /// By which hook the ends of system calls are seen [default: auto].
    #[arg(long, value_enum, value_name = "HOOK", hide_short_help = true)]
    sensor_hook: Option<HookChoice>,
    /// Whether programs on LSM hooks are used where the kernel runs them [default: auto].
    #[arg(long, value_enum, value_name = "WHEN", hide_short_help = true)]
    sensor_lsm: Option<LsmChoice>,
    /// Show what the programs in the kernel log (needs --log-level debug).
    #[arg(long)]
    sensor_debug: bool,
    /// Log level or directives, such as `debug` or `info,staghound::export=trace` [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log format [default: text].
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Args)]
struct ObserveArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Rule files or directories of them, on top of the embedded packs. May be repeated.
    #[arg(long, value_name = "DIR")]
    rules: Vec<PathBuf>,
    /// Collector to deliver to, such as http://127.0.0.1:50051. May be repeated: the next is tried when one fails.
    #[arg(long, value_name = "URL")]
    collector: Vec<CollectorUrl>,
    /// How to show alerts on standard output [default: text; none with a collector].
    #[arg(long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
    /// Address of metrics and health, or `none` [default: 127.0.0.1:9464].
    #[arg(long, alias = "http", value_name = "ADDRESS", value_parser = listen)]
    http_listen: Option<Listen>,
    /// Serve metrics and health on an address that is not a loopback one, unencrypted.
    #[arg(long)]
    insecure_http: bool,
    /// Deliver over http:// to collectors that are not on loopback: everybody between can read and forge alerts.
    #[arg(long)]
    insecure_plaintext: bool,
    /// Pin the programs, so that they go on recording while the agent is restarted; take over what an earlier agent pinned.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = PIN_DIRECTORY)]
    pin: Option<PathBuf>,
    /// Identity of this agent [default: /etc/machine-id].
    #[arg(long, value_name = "ID")]
    agent_id: Option<AgentId>,
}

/// How what was checked is told.
#[derive(Clone, Copy, clap::ValueEnum)]
enum PreflightOutput {
    Text,
    Json,
}

/// An address, or none on purpose. (clap would take a nested option for an optional value.)
#[derive(Clone, Copy)]
struct Listen(Option<SocketAddr>);

fn listen(text: &str) -> Result<Listen, String> {
    config::parse_listen(text).map(Listen)
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Rule files or directories of them, on top of the embedded packs. May be repeated.
    #[arg(long, value_name = "DIR")]
    rules: Vec<PathBuf>,
    /// Fail the run on an alert of this severity or worse: informational, low, medium, high or critical. Short for a policy
    /// that says only this.
    #[arg(long, value_name = "SEVERITY", conflicts_with = "policy", value_parser = run::parse_severity)]
    fail_on: Option<Severity>,
    /// What is tolerated, and what follows: see `staghound policy show`. Default: the policy that is shown there.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Write the reports here. The directory is made if need be.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Print the policy that holds where none is given, to begin one's own with.
    Show,
    /// Read a policy as `run` would, and tell what is wrong with it: mistakes, rules that nobody has, waivers that are over.
    Check {
        /// The policy.
        #[arg(value_name = "POLICY")]
        policy: PathBuf,
        /// Rule files or directories of them, on top of the embedded packs. May be repeated.
        #[arg(long, value_name = "DIR")]
        rules: Vec<PathBuf>,
    },
    /// Tell what a policy makes of a run that was reported, finding by finding, and why.
    Explain {
        /// The `report.json` that `run --report` wrote.
        #[arg(value_name = "REPORT")]
        report: PathBuf,
        /// The policy. Default: the one that `policy show` prints.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum RulesCommand {
    /// Read rules as `observe` would, run their examples, and tell what is wrong, with file, line and column.
    Check {
        /// Rule files or directories, on top of the embedded packs.
        paths: Vec<PathBuf>,
        /// Without the embedded packs.
        #[arg(long)]
        alone: bool,
    },
    /// One line for each rule: id, severity, techniques, name.
    List {
        /// Rule files or directories, on top of the embedded packs.
        paths: Vec<PathBuf>,
        /// As a Markdown table.
        #[arg(long)]
        markdown: bool,
    },
    /// Everything about one rule.
    Show {
        /// Id or name of the rule.
        id: String,
        /// Rule files or directories, on top of the embedded packs.
        paths: Vec<PathBuf>,
    },
    /// Run the examples of all rules.
    Test {
        /// Rule files or directories, on top of the embedded packs.
        paths: Vec<PathBuf>,
    },
    /// How each check of a rule turns out for an event, and whether the rule matches.
    Explain {
        /// Id or name of the rule.
        id: String,
        /// File with the event: JSON or YAML that maps fields to values, or a list of events for a rule over several.
        event: PathBuf,
        /// Rule files or directories, on top of the embedded packs.
        paths: Vec<PathBuf>,
    },
    /// Which ATT&CK techniques the rules look for, by tactic.
    Coverage {
        /// Rule files or directories, on top of the embedded packs.
        paths: Vec<PathBuf>,
        /// As a table, or as a layer for ATT&CK Navigator.
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
        output: coverage::Format,
    },
    /// The fields that conditions and outputs may use.
    Fields {
        /// As a Markdown table.
        #[arg(long)]
        markdown: bool,
    },
}

/// Version, commit and kernel object, as `staghound --version` prints them.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!(
            "{} (commit {}, kernel object {})",
            env!("CARGO_PKG_VERSION"),
            env!("STAGHOUND_COMMIT"),
            sensor::object_digest()
        )
    });
    &VERSION
}

/// Does what the command line says; yields the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _unprinted = error.print();
            return ExitCode::from(usage_code(&error, std::env::args_os().nth(1).as_deref()));
        }
    };
    let on_error = if matches!(cli.command, Command::Run(_)) {
        run::EXIT_ERROR
    } else {
        1
    };
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // A reader that has gone is no mistake of ours.
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            let _unprinted = writeln!(io::stderr(), "staghound: {error:#}");
            ExitCode::from(on_error)
        }
    }
}

/// 2 for mistakes of usage, 0 for help and version, as everywhere; but of a run the 2 would be the command's own.
fn usage_code(error: &clap::Error, subcommand: Option<&OsStr>) -> u8 {
    match (error.use_stderr(), subcommand) {
        (false, _) => 0,
        (true, Some(name)) if name == "run" => run::EXIT_ERROR,
        (true, _) => 2,
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Observe(args) => {
            let common = args.common;
            let overrides = Overrides {
                agent_id: args.agent_id,
                collectors: args.collector,
                rules: args.rules,
                http_listen: args.http_listen.map(|listen| listen.0),
                insecure_http: args.insecure_http,
                insecure_plaintext: args.insecure_plaintext,
                output: args.output,
                pin: args.pin,
                ..common.overrides()
            };
            let config = Config::load(common.config.as_deref(), overrides)?;
            logging::init(&config.log.level, config.log.format)?;
            observe::observe(config)
        }
        Command::Run(args) => {
            let config = Config::load(
                args.common.config.as_deref(),
                Overrides {
                    rules: args.rules,
                    ..args.common.overrides()
                },
            )?;
            // The run's own standard error belongs to the command and the summary.
            let level = args.common.log_level.as_deref().unwrap_or("warn");
            logging::init(level, config.log.format)?;
            let config = run::RunConfig {
                sensor: config.sensor_config(),
                rules: config.rules,
                policy: match (&args.policy, args.fail_on) {
                    (Some(path), _) => run::read_policy(path)?,
                    (None, Some(severity)) => Policy::failing_on(severity),
                    (None, None) => Policy::default_policy(),
                },
                report: args.report,
                command: args.command,
            };
            Ok(ExitCode::from(run::run(&config)?))
        }
        Command::Report(args) => {
            report::report(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Attest { command } => print(&attest::attest(&command)?),
        Command::Policy { command } => match command {
            PolicyCommand::Show => print(policy::show()),
            PolicyCommand::Check { policy, rules } => print(&policy::check(&policy, &rules, SystemTime::now())?),
            PolicyCommand::Explain { report, policy } => {
                print(&policy::explain(policy.as_deref(), &report, SystemTime::now())?)
            }
        },
        Command::Rules { command } => {
            let text = match command {
                RulesCommand::Check { paths, alone } => rules::check(&paths, alone)?,
                RulesCommand::List { paths, markdown } => rules::list(&paths, markdown)?,
                RulesCommand::Show { id, paths } => rules::show(&paths, &id)?,
                RulesCommand::Test { paths } => rules::test(&paths)?,
                RulesCommand::Explain { id, event, paths } => rules::explain::explain(&paths, &id, &event)?,
                RulesCommand::Coverage { paths, output } => coverage::coverage(&paths, output)?,
                RulesCommand::Fields { markdown } => rules::fields(markdown),
            };
            print(&text)
        }
        Command::Preflight {
            common,
            output,
            plan,
            rules,
        } => {
            let overrides = Overrides {
                rules,
                ..common.overrides()
            };
            let config = Config::load(common.config.as_deref(), overrides)?;
            if plan {
                let loaded = packs::load_with_embedded(&config.rules)?;
                let sensor = Sensor::start(&config.sensor_config())?;
                return print(&preflight::plan(&loaded.ruleset.demand(), sensor.outcomes()));
            }
            let preflight = Preflight::of_this_host(&config, &config.sensor_config());
            match output {
                PreflightOutput::Text => print(&preflight.to_string())?,
                PreflightOutput::Json => print(&(preflight.to_json()? + "\n"))?,
            };
            Ok(ExitCode::from(u8::from(preflight.status == Status::Bad)))
        }
        Command::Unpin { directory } => {
            let removed = sensor::unpin(&directory)?;
            print(
                &removed
                    .iter()
                    .map(|path| format!("removed {}\n", path.display()))
                    .collect::<String>(),
            )
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "staghound", &mut script);
            io::stdout().lock().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl CommonArgs {
    fn overrides(&self) -> Overrides {
        Overrides {
            state_directory: self.state_directory.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format,
            sensor_hook: self.sensor_hook,
            sensor_lsm: self.sensor_lsm,
            sensor_without: self.sensor_without.clone(),
            sensor_debug: self.sensor_debug,
            ..Overrides::default()
        }
    }
}

fn print(text: &str) -> Result<ExitCode> {
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        for line in [
            "staghound run -- sh -c true",
            "staghound observe --http-listen none --output json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for (line, code) in [
            ("staghound run --fail-on bad -- true", 103),
            ("staghound run", 103),
            ("staghound run --help", 0),
            ("staghound observe --no-such-option", 2),
            ("staghound", 2),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let error = Cli::try_parse_from(&words).err().unwrap();
            assert_eq!(usage_code(&error, words.get(1).map(OsStr::new)), code, "{line}");
        }
    }
}
