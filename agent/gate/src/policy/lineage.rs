//! Whose code a process runs, told by who started it.
//!
//! A package manager that installs or builds a package runs code of the package: lifecycle hooks, setup and build scripts.
//! What is below such a call is third-party code. What a package manager is asked to run of the project itself
//! (`npm run`, `cargo test`) is the project's own.

use staghound_proto::v1::{Alert, Process};

/// Package managers by the name of their program, and what they are asked for when they run code of packages.
/// Without verbs: whatever they are asked for.
const INSTALLERS: &[(&str, &[&str])] = &[
    (
        "npm",
        &[
            "install",
            "i",
            "in",
            "ins",
            "add",
            "ci",
            "clean-install",
            "install-clean",
            "install-test",
            "it",
            "cit",
            "update",
            "up",
            "upgrade",
            "rebuild",
            "rb",
            "exec",
            "x",
            "create",
            "init",
            "audit",
            "dedupe",
            "prune",
            "link",
            "ln",
        ],
    ),
    (
        "pnpm",
        &[
            "install",
            "i",
            "add",
            "update",
            "up",
            "rebuild",
            "rb",
            "dlx",
            "create",
            "import",
            "approve-builds",
        ],
    ),
    (
        "yarn",
        &[
            "", "install", "add", "up", "upgrade", "rebuild", "dlx", "create", "global",
        ],
    ),
    ("bun", &["install", "i", "add", "a", "update", "x", "create", "pm"]),
    ("npx", &[]),
    ("pnpx", &[]),
    ("bunx", &[]),
    ("pip", &["install", "wheel", "download"]),
    ("pip3", &["install", "wheel", "download"]),
    ("pipx", &["install", "run", "inject", "upgrade"]),
    ("uv", &["pip", "sync", "add", "tool", "lock"]),
    ("uvx", &[]),
    ("poetry", &["install", "add", "update"]),
    ("pdm", &["install", "add", "update", "sync"]),
    ("conda", &["install", "create", "update"]),
    ("easy_install", &[]),
    ("gem", &["install", "update"]),
    ("bundle", &["", "install", "update", "add"]),
    ("bundler", &["", "install", "update", "add"]),
    ("composer", &["install", "update", "require", "create-project"]),
    ("go", &["get", "generate", "install"]),
    ("cpan", &[]),
    ("cpanm", &[]),
    ("luarocks", &["install", "build"]),
];

/// Programs that run others, which are named by their first argument that is no option.
const INTERPRETERS: [&str; 12] = [
    "node", "nodejs", "bun", "deno", "python", "python2", "python3", "pypy3", "ruby", "perl", "php", "corepack",
];

/// Directories in which package managers unpack what they build.
const PACKAGE_DIRECTORIES: [&str; 6] = [
    "/.cargo/registry/src/",
    "/.cargo/git/checkouts/",
    "/node_modules/",
    "/pip-install-",
    "/pip-req-build-",
    "/pip-build-env-",
];

/// Whether the process of this alert runs code of others: something above it, or itself, is a package manager that was
/// asked to install or build, or a build script of a package in a registry's cache.
pub(super) fn is_third_party(alert: &Alert) -> bool {
    alert.process.iter().chain(&alert.ancestors).any(begins_third_party)
}

fn begins_third_party(process: &Process) -> bool {
    is_installer(process) || is_build_script(process)
}

/// A cargo build script, or anything else that is run out of a package's own directory.
fn is_build_script(process: &Process) -> bool {
    let in_package = |path: &str| PACKAGE_DIRECTORIES.iter().any(|part| path.contains(part));
    let name = file_name(&process.executable);
    // A build script of the project itself has the project as its working directory.
    (name.starts_with("build-script-") && in_package(&process.cwd))
        || (name == "node" && in_package(&format!("{}/", process.cwd)))
}

fn is_installer(process: &Process) -> bool {
    let mut words = process.args.iter().map(String::as_str);
    let Some(mut program) = words.next().map(file_name) else {
        return false;
    };
    let mut words = words.peekable();
    let mut hops = 0;
    while is_interpreter(program) && hops < 3 {
        hops += 1;
        let Some(next) = words.find(|word| *word == "-m" || !word.starts_with('-')) else {
            break;
        };
        program = match next {
            "-m" => words.next().unwrap_or_default(),
            script => script_name(script),
        };
        // `bun install`: an interpreter that is a package manager, too.
        if program == "install" || program == "add" {
            return true;
        }
    }
    if program == "setup" || program == "setup.py" {
        return words.any(|word| matches!(word, "install" | "develop" | "build" | "bdist_wheel"));
    }
    let program = program.strip_suffix(".js").unwrap_or(program);
    let program = program.strip_suffix(".cjs").unwrap_or(program);
    // `npm-cli.js`, `pip3.11`.
    let program = program.strip_suffix("-cli").unwrap_or(program);
    let program = if program.starts_with("pip3.") { "pip3" } else { program };
    let Some((_, verbs)) = INSTALLERS.iter().find(|(name, _)| *name == program) else {
        return false;
    };
    // `npm --prefix x ci`: an option's value is taken for the verb, so all words are looked at.
    let mut plain = words.filter(|word| !word.starts_with('-')).peekable();
    verbs.is_empty()
        || (plain.peek().is_none() && verbs.contains(&""))
        || plain.take(3).any(|word| verbs.contains(&word))
}

fn is_interpreter(program: &str) -> bool {
    let bare = program.trim_end_matches(|character: char| character.is_ascii_digit() || character == '.');
    INTERPRETERS.contains(&program) || INTERPRETERS.contains(&bare)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// What a script is called: `/usr/lib/node_modules/npm/bin/npm-cli.js` is `npm-cli.js`; a package that is run by its
/// directory, such as `/tmp/x/pip/__main__.py`, is called as that.
fn script_name(path: &str) -> &str {
    match path.strip_suffix("/__main__.py") {
        Some(directory) => file_name(directory),
        None => file_name(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(args: &[&str]) -> Process {
        Process {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            executable: args[0].to_owned(),
            ..Process::default()
        }
    }

    #[test]
    fn installers_are_known_by_what_they_are_asked_for() {
        for (args, expected) in [
            (&["npm", "ci"][..], true),
            (&["npm", "--prefix", "web", "install"], true),
            (&["node", "/usr/bin/npm", "i", "left-pad"], true),
            (&["node", "/usr/lib/node_modules/npm/bin/npm-cli.js", "ci"], true),
            (&["npm", "run", "build"], false),
            (&["npm", "test"], false),
            (&["yarn"], true),
            (&["yarn", "build"], false),
            (&["bun", "install"], true),
            (&["bun", "run", "build"], false),
            (&["python3", "-m", "pip", "install", "x"], true),
            (&["/usr/bin/python3.11", "-I", "/usr/bin/pip3", "install", "."], true),
            (&["pip3.11", "wheel", "."], true),
            (&["python3", "/tmp/x/pip/__main__.py", "install", "y"], true),
            (&["python3", "setup.py", "bdist_wheel"], true),
            (&["python3", "-m", "pytest"], false),
            (&["python3", "manage.py", "install"], false),
            (&["go", "build", "./..."], false),
            (&["go", "generate", "./..."], true),
            (&["cargo", "build"], false),
            (&["gem", "install", "rake"], true),
            (&["bundle"], true),
            (&["npx", "cowsay"], true),
            (&["sh", "-c", "npm ci"], false),
        ] {
            assert_eq!(begins_third_party(&process(args)), expected, "{args:?}");
        }
        assert!(!begins_third_party(&Process::default()));
    }

    #[test]
    fn a_build_script_is_third_party_where_its_package_is() {
        let script = |cwd: &str| Process {
            executable: "/src/target/debug/build/ring-3f/build-script-build".to_owned(),
            args: vec!["build-script-build".to_owned()],
            cwd: cwd.to_owned(),
            ..Process::default()
        };
        assert!(begins_third_party(&script(
            "/root/.cargo/registry/src/index-1/ring-0.17"
        )));
        assert!(!begins_third_party(&script("/src/project")));
    }

    #[test]
    fn what_an_installer_started_is_third_party_however_far_below() {
        let alert = Alert {
            process: Some(process(&["cat", "/etc/shadow"])),
            ancestors: vec![process(&["sh", "-c", "x"]), process(&["npm", "ci"]), process(&["make"])],
            ..Alert::default()
        };
        assert!(is_third_party(&alert));
        let own = Alert {
            ancestors: vec![process(&["make"])],
            ..alert
        };
        assert!(!is_third_party(&own));
    }
}
