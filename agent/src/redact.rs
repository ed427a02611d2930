//! Takes secrets out of what leaves the host: values of options, variables and headers that are named like secrets,
//! passwords in URLs, and words that look like tokens of well-known services.

/// What stands in the place of a secret.
const REDACTED: &str = "<redacted>";

/// Parts of names whose values are secrets, in small letters without `-` and `_`.
const SECRET_NAMES: [&str; 14] = [
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
    "mysqlpwd",
];

/// Names longer than this are no names.
const NAME_BYTES_MAX: usize = 64;

/// Words between the name of a header and the secret.
const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "digest", "apikey"];

/// Options whose argument is `user:password`, as those of curl.
const USER_OPTIONS: [&str; 4] = ["-u", "--user", "-U", "--proxy-user"];

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

/// Arguments without their secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// One for each that was given.
    pub arguments: Vec<String>,
    /// What was taken out as a whole, for [`without`]: in running text nobody sees where such a secret ends.
    pub hidden: Vec<String>,
}

/// What comes next is a secret because of what came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Plain,
    /// All of it.
    Secret,
    /// What stands behind `user:`.
    User,
    /// The value of a header: a scheme and a secret, or a secret.
    Header,
}

/// Redacts a list of arguments: an option named like a secret hides what follows it.
#[must_use]
pub fn arguments(arguments: &[String]) -> Redacted {
    let mut redacted = Redacted::default();
    let mut next = Next::Plain;
    let mut is_script = false;
    for argument in arguments {
        let now = std::mem::take(&mut next);
        let follows_c = std::mem::replace(&mut is_script, argument == "-c");
        let starts = match now {
            Next::Secret if !argument.starts_with('-') => Some(0),
            Next::User => user_secret(argument),
            Next::Plain | Next::Secret | Next::Header => whole_value(argument, follows_c),
        };
        match starts {
            Some(start) if start < argument.len() => {
                let (shown, secret) = argument.split_at(start);
                redacted.hidden.push(secret.to_owned());
                redacted.arguments.push(text(shown) + REDACTED);
            }
            _ => {
                next = after(argument);
                redacted.arguments.push(text(argument));
            }
        }
    }
    redacted
}

/// Redacts running text: words as above, and what follows a word like `Bearer` or `--token`.
#[must_use]
pub fn text(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut next = Next::Plain;
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            redacted.push(' ');
        }
        let now = std::mem::take(&mut next);
        let bare = bare(word);
        let is_value = !word.is_empty() && !word.starts_with('-');
        match now {
            Next::Header if is_scheme(bare) => {
                next = Next::Secret;
                redacted.push_str(word);
            }
            Next::Header | Next::Secret if is_value => redacted.push_str(REDACTED),
            Next::User if user_secret(word).is_some() => {
                let start = user_secret(word).expect("just asked");
                redacted.push_str(&word[..start]);
                redacted.push_str(REDACTED);
            }
            Next::Plain | Next::Secret | Next::User | Next::Header => {
                next = after(bare);
                push_word(word, &mut redacted);
            }
        }
    }
    redacted
}

/// The text without the secrets that [`arguments`] found.
#[must_use]
pub fn without(text: &str, hidden: &[String]) -> String {
    let mut text = text.to_owned();
    // The longest first: one may hold another. Very short ones would take words out that are none.
    let mut hidden: Vec<&String> = hidden.iter().filter(|secret| secret.len() >= 4).collect();
    hidden.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in hidden {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), REDACTED);
        }
    }
    text
}

fn bare(word: &str) -> &str {
    word.trim_matches(['"', '\''])
}

fn is_scheme(word: &str) -> bool {
    SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// What a word says of the next one.
fn after(word: &str) -> Next {
    if USER_OPTIONS.contains(&word) {
        return Next::User;
    }
    if word.starts_with('-') && !word.contains('=') && is_secret_name(word) {
        return Next::Secret;
    }
    if word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic") {
        return Next::Secret;
    }
    // People write `secrets: `, headers are written `X-Api-Key: `.
    let is_header = |name: &str| name.contains('-') || name.eq_ignore_ascii_case("authorization");
    let header = word
        .strip_suffix(':')
        .and_then(|name| name.rsplit(['"', '\'', '=']).next());
    match header {
        Some(name) if is_header(name) && is_secret_name(name) => Next::Header,
        _ => Next::Plain,
    }
}

/// Where the password begins in `user:password`. Two numbers are a user and a group.
fn user_secret(word: &str) -> Option<usize> {
    let (user, password) = word.split_once(':')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_harmless = password.is_empty() || user.contains('/') || (is_number(user) && is_number(bare(password)));
    (!is_harmless).then_some(user.len() + 1)
}

/// Where the secret begins in an argument that is a secret from there to its end, blanks and all: `--password=two words`,
/// `PASSWORD=two words`, `X-Api-Key: two words`. A script may go on after its first word.
fn whole_value(argument: &str, is_script: bool) -> Option<usize> {
    let separator = argument.find(['=', ':'])?;
    let (name, value) = (&argument[..separator], &argument[separator + 1..]);
    let is_pair = name.len() <= NAME_BYTES_MAX && name.chars().all(is_name_char);
    if !is_pair || is_script || value.starts_with("//") {
        return None;
    }
    if let Some(user) = USER_OPTIONS.iter().find(|option| **option == name)
        && argument.as_bytes()[separator] == b'='
    {
        return user_secret(value).map(|start| user.len() + 1 + start);
    }
    if let Some(glued) = argument.strip_prefix("-u").filter(|glued| !glued.starts_with('-')) {
        return user_secret(glued).map(|start| 2 + start);
    }
    if !is_secret_name(name) {
        return None;
    }
    let value = value.trim_start();
    let start = argument.len() - value.len();
    match value.split_once(' ') {
        Some((scheme, rest)) if is_scheme(scheme) => Some(argument.len() - rest.len()),
        _ => Some(start),
    }
}

fn push_word(word: &str, into: &mut String) {
    let word = without_userinfo(word);
    let ends_early = word.contains("://") || word.contains('?');
    let (mut copied, mut from) = (0, 0);
    // `NAME=value`, `--name=value`, `--env=NAME=value`, `a=1;NAME=value`, `?a=b&name=value`, `"name":"value"`.
    while let Some(found) = word[from..].find(['=', ':']) {
        let separator = from + found;
        from = separator + 1;
        let named = word[..separator].trim_end_matches(['"', '\'']);
        let start = named
            .char_indices()
            .rev()
            .find(|(_, c)| !is_name_char(*c))
            .map_or(0, |(index, c)| index + c.len_utf8());
        // Behind a `/` it is a file's name.
        let begins = named[..start].chars().next_back().is_none_or(|c| {
            matches!(
                c,
                '=' | ';' | '&' | '?' | ',' | '"' | '\'' | '{' | '(' | '[' | '\\' | '#' | '|'
            )
        });
        let (name, value) = (&named[start..], &word[from..]);
        if !begins || value.is_empty() || value.starts_with("//") || !is_secret_name(name) {
            continue;
        }
        push_without_tokens(&word[copied..from], into);
        into.push_str(REDACTED);
        let end = value.find(['&', '#']).filter(|_| ends_early).unwrap_or(value.len());
        copied = from + end;
        from = copied;
    }
    push_without_tokens(&word[copied..], into);
}

/// Takes the password out of `scheme://user:password@host`, and what stands alone before the `@` of a web address.
fn without_userinfo(word: &str) -> std::borrow::Cow<'_, str> {
    let Some((scheme, rest)) = word.split_once("://") else {
        return word.into();
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let Some((userinfo, _)) = authority.rsplit_once('@') else {
        return word.into();
    };
    let after = &rest[userinfo.len()..];
    match userinfo.split_once(':') {
        Some((user, password)) if !password.is_empty() && password != "x-oauth-basic" => {
            format!("{scheme}://{user}:{REDACTED}{after}").into()
        }
        Some(_) => format!("{scheme}://{REDACTED}{after}").into(),
        None if scheme.ends_with("http") || scheme.ends_with("https") => format!("{scheme}://{REDACTED}{after}").into(),
        None => word.into(),
    }
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

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Whether a name is one of a secret. What holds a `/` is a path.
fn is_secret_name(name: &str) -> bool {
    if name.len() > NAME_BYTES_MAX || name.contains('/') {
        return false;
    }
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
            (
                "docker run -v /etc/passwd:/etc/passwd -u 1000:1000 x",
                "docker run -v /etc/passwd:/etc/passwd -u 1000:1000 x",
            ),
            (
                "curl -H 'Authorization: token abcdef' h",
                "curl -H 'Authorization: token <redacted> h",
            ),
            ("curl -H Authorization: abcdef h", "curl -H Authorization: <redacted> h"),
            ("curl -H PRIVATE-TOKEN: abcdef h", "curl -H PRIVATE-TOKEN: <redacted> h"),
            ("curl -H 'X-Api-Key: abcdef' h", "curl -H 'X-Api-Key: <redacted> h"),
            ("curl -H X-Api-Key:abcdef h", "curl -H X-Api-Key:<redacted> h"),
            ("curl -u me:abcdef h", "curl -u me:<redacted> h"),
            ("curl --user me:abcdef h", "curl --user me:<redacted> h"),
            (
                "docker run --env=DB_PASSWORD=abcdef x",
                "docker run --env=DB_PASSWORD=<redacted> x",
            ),
            (
                "curl https://h/p?a=b&token=abcdef&c=d#e",
                "curl https://h/p?a=b&token=<redacted>&c=d#e",
            ),
            (
                "git clone https://abcdef@h/r.git",
                "git clone https://<redacted>@h/r.git",
            ),
            (
                "git clone https://abcdef:x-oauth-basic@h/r.git",
                "git clone https://<redacted>@h/r.git",
            ),
            ("git clone ssh://git@h/r.git", "git clone ssh://git@h/r.git"),
            ("A=1;DB_PASSWORD=abcdef", "A=1;DB_PASSWORD=<redacted>"),
            ("{\"password\":\"abcdef\"}", "{\"password\":<redacted>"),
            ("search for secrets: grep -r x", "search for secrets: grep -r x"),
            (
                "http://secret-host:8080/ /run/secrets/x:/y",
                "http://secret-host:8080/ /run/secrets/x:/y",
            ),
        ] {
            assert_eq!(text(given), expected);
        }
    }

    #[test]
    fn an_option_hides_the_argument_behind_it() {
        let given = ["twine", "--password", "two words", "--verbose", "--api-key=x", "dist/x"].map(str::to_owned);
        assert_eq!(
            arguments(&given).arguments,
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

    #[test]
    fn arguments_with_blanks_are_hidden_as_a_whole_and_told() {
        for (given, shown, hidden) in [
            (
                &["x", "--password", "a secret one"][..],
                "x --password <redacted>",
                Some("a secret one"),
            ),
            (
                &["x", "--password=a secret one"],
                "x --password=<redacted>",
                Some("a secret one"),
            ),
            (
                &["env", "DB_PASSWORD=a secret one"],
                "env DB_PASSWORD=<redacted>",
                Some("a secret one"),
            ),
            (
                &["curl", "-u", "me:a secret one"],
                "curl -u me:<redacted>",
                Some("a secret one"),
            ),
            (
                &["curl", "--user=me:a secret one"],
                "curl --user=me:<redacted>",
                Some("a secret one"),
            ),
            (
                &["curl", "-ume:a secret one"],
                "curl -ume:<redacted>",
                Some("a secret one"),
            ),
            (
                &["curl", "-H", "X-Api-Key: a secret one"],
                "curl -H X-Api-Key: <redacted>",
                Some("a secret one"),
            ),
            (
                &["curl", "-H", "Authorization: token a secret one"],
                "curl -H Authorization: token <redacted>",
                Some("a secret one"),
            ),
            (
                &["sh", "-c", "PASSWORD=abcd make all"],
                "sh -c PASSWORD=<redacted> make all",
                None,
            ),
            (
                &["sh", "-c", "make token:all other"],
                "sh -c make token:<redacted> other",
                None,
            ),
        ] {
            let given: Vec<String> = given.iter().map(|argument| (*argument).to_owned()).collect();
            let redacted = arguments(&given);
            assert_eq!(redacted.arguments.join(" "), shown);
            assert_eq!(redacted.hidden.first().map(String::as_str), hidden, "{given:?}");
            assert!(!without(&given.join(" "), &redacted.hidden).contains("a secret one"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_redacted_without_panic(given in any::<String>()) {
            let _redacted = (text(&given), arguments(&[given.clone(), given]));
        }
    }
}
