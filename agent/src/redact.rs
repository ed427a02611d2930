//! Takes secrets out of what leaves the host: values of options and variables that are named like secrets, and words
//! that look like tokens of well-known services.

/// What stands in the place of a secret.
const REDACTED: &str = "<redacted>";

/// Parts of names whose values are secrets, in small letters without `-` and `_`.
const SECRET_NAMES: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "bearer",
    "sessionid",
    "pgpass",
];

/// How tokens of well-known services begin, and how long they are at least.
const TOKEN_PREFIXES: [(&str, usize); 17] = [
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 22),
    ("glpat-", 20),
    ("npm_", 30),
    ("pypi-", 30),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("AKIA", 20),
    ("ASIA", 20),
    ("eyJ", 30),
    ("sk-", 20),
    ("hvs.", 20),
    ("dckr_pat_", 20),
];

/// Redacts a list of arguments: an option named like a secret hides what follows it.
#[must_use]
pub fn arguments(arguments: &[String]) -> Vec<String> {
    let mut hide_next = false;
    arguments
        .iter()
        .map(|argument| {
            let hide = std::mem::take(&mut hide_next);
            if hide && !argument.starts_with('-') {
                return REDACTED.to_owned();
            }
            hide_next = argument.starts_with('-') && !argument.contains('=') && is_secret_name(argument);
            text(argument)
        })
        .collect()
}

/// Redacts running text: words as above, and what follows a word like `Bearer` or `--token`.
#[must_use]
pub fn text(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut hide_next = false;
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            redacted.push(' ');
        }
        let hide = std::mem::take(&mut hide_next);
        if hide && !word.is_empty() && !word.starts_with('-') {
            redacted.push_str(REDACTED);
            continue;
        }
        let bare = word.trim_matches(['"', '\'']);
        let option = bare.starts_with('-') && !bare.contains('=') && is_secret_name(bare);
        hide_next = option || ["bearer", "basic", "authorization:"].contains(&bare.to_ascii_lowercase().as_str());
        if bare.eq_ignore_ascii_case("authorization:") {
            // The scheme follows, and then the secret; a scheme hides nothing.
            hide_next = false;
        }
        push_word(word, &mut redacted);
    }
    redacted
}

fn push_word(word: &str, into: &mut String) {
    // `NAME=value`, `--name=value`, `name: value` in one word.
    if let Some((name, value)) = word.split_once(['=', ':'])
        && !value.is_empty()
        && !value.starts_with("//")
        && name.len() <= 64
        && is_secret_name(name)
    {
        into.push_str(name);
        into.push_str(&word[name.len()..=name.len()]);
        into.push_str(REDACTED);
        return;
    }
    // `scheme://user:password@host`.
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((userinfo, host)) = rest.split_once('@')
        && let Some((user, _)) = userinfo.split_once(':')
        && !userinfo.contains('/')
    {
        into.push_str(scheme);
        into.push_str("://");
        into.push_str(user);
        into.push(':');
        into.push_str(REDACTED);
        into.push('@');
        into.push_str(host);
        return;
    }
    push_without_tokens(word, into);
}

/// Tokens may stand anywhere in a word, as in `x-access-token:ghp_…@github.com`.
fn push_without_tokens(word: &str, into: &mut String) {
    let is_token = |part: &str| {
        TOKEN_PREFIXES
            .iter()
            .any(|(prefix, min)| part.len() >= *min && part.starts_with(prefix))
    };
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
            .unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        into.push_str(if is_token(part) { REDACTED } else { part });
        let delimiter = after.chars().next().map_or(0, char::len_utf8);
        into.push_str(&after[..delimiter]);
        rest = &after[delimiter..];
    }
}

fn is_secret_name(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_taken_out() {
        for (given, expected) in [
            ("curl https://example.com", "curl https://example.com"),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=<redacted> psql"),
            ("mysql --password=hunter2 db", "mysql --password=<redacted> db"),
            ("mysql --password hunter2 db", "mysql --password <redacted> db"),
            (
                "git clone https://u:p4ss@host/r.git",
                "git clone https://u:<redacted>@host/r.git",
            ),
            (
                "curl -H 'Authorization: Bearer abcdef'",
                "curl -H 'Authorization: Bearer <redacted>",
            ),
            ("echo ghp_0123456789012345678901234567890123456789", "echo <redacted>"),
            ("x:ghp_0123456789012345678901234567890123456789@h", "x:<redacted>@h"),
            (
                "AWS_SECRET_ACCESS_KEY=x aws s3 ls",
                "AWS_SECRET_ACCESS_KEY=<redacted> aws s3 ls",
            ),
            (
                "cat /etc/passwd /root/.config/gh/hosts.yml",
                "cat /etc/passwd /root/.config/gh/hosts.yml",
            ),
            (
                "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
                "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
            ),
        ] {
            assert_eq!(text(given), expected);
        }
    }

    #[test]
    fn an_option_hides_the_argument_behind_it() {
        let given = ["twine", "--password", "two words", "--verbose", "--api-key=x", "dist/x"].map(str::to_owned);
        assert_eq!(
            arguments(&given),
            [
                "twine",
                "--password",
                "<redacted>",
                "--verbose",
                "--api-key=<redacted>",
                "dist/x"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_redacted_without_panic(given in any::<String>()) {
            let _redacted = (text(&given), arguments(&[given.clone(), given]));
        }
    }
}
