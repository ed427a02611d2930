//! Conditions as written: text to syntax tree and back. Nothing here knows which fields, macros or lists exist.

use std::fmt;
use std::ops::Range;

/// How deeply parentheses and transformers may nest.
pub const DEPTH_MAX: usize = 1000;

/// A condition as written. Byte ranges are relative to the text that was parsed.
#[derive(Clone, Debug, PartialEq)]
pub enum Syntax {
    /// All of these; at least two.
    And(Vec<Self>),
    /// One of these; at least two.
    Or(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// A macro by name.
    Macro {
        /// Its name.
        name: String,
        /// Where it stands.
        span: Range<usize>,
    },
    /// A check of a field.
    Check(Box<Check>),
}

/// A left side, an operator and what it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What is looked at.
    pub left: Operand,
    /// How it is compared.
    pub operator: Operator,
    /// Where the operator stands.
    pub operator_span: Range<usize>,
    /// How many of the values must satisfy the operator, when that is written.
    pub quantifier: Option<Quantifier>,
    /// What it is compared with.
    pub right: Right,
    /// Where the check stands.
    pub span: Range<usize>,
}

/// A field or a transformed field.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A field with its argument.
    Field(FieldName),
    /// A transformer around arguments.
    Transformed {
        /// Which.
        transformer: Transformer,
        /// What it is applied to.
        arguments: Vec<Argument>,
        /// What stands in brackets behind it.
        index: Option<String>,
        /// Where it stands.
        span: Range<usize>,
    },
}

impl Operand {
    /// Where it stands.
    pub fn span(&self) -> Range<usize> {
        match self {
            Self::Field(field) => field.span.clone(),
            Self::Transformed { span, .. } => span.clone(),
        }
    }
}

/// A field as written.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldName {
    /// Dotted name.
    pub name: String,
    /// What stands in brackets.
    pub argument: Option<String>,
    /// Where it stands.
    pub span: Range<usize>,
}

/// What a transformer is applied to.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A field or another transformer.
    Operand(Operand),
    /// Text or a number.
    Literal(Literal),
    /// Several.
    List(Vec<Self>),
}

/// What a check compares with.
#[derive(Clone, Debug, PartialEq)]
pub enum Right {
    /// Nothing: `exists`.
    None,
    /// One value.
    Literal(Literal),
    /// Several values.
    List(Vec<Literal>),
    /// Another field: `val(proc.pname)` or a transformer.
    Field(Operand),
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    /// Its text, escapes resolved.
    pub text: String,
    /// Where it stands.
    pub span: Range<usize>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As written in conditions.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// How a check compares.
    Operator {
        /// The field has a value.
        Exists = "exists",
        /// Equal; `==` is another way to write it.
        Equal = "=",
        /// Has a value, and not this one.
        NotEqual = "!=",
        /// Less than or equal.
        LessOrEqual = "<=",
        /// Less.
        Less = "<",
        /// Greater or equal.
        GreaterOrEqual = ">=",
        /// Greater.
        Greater = ">",
        /// Matches a pattern with `*`, `?` and `[…]`.
        Glob = "glob",
        /// The same without regard to ASCII case.
        GlobFold = "iglob",
        /// Contains this text.
        Contains = "contains",
        /// The same without regard to ASCII case.
        ContainsFold = "icontains",
        /// Contains these bytes, in hexadecimal.
        BytesContain = "bcontains",
        /// Begins with this text.
        StartsWith = "startswith",
        /// Begins with these bytes, in hexadecimal.
        BytesStartWith = "bstartswith",
        /// Ends with this text.
        EndsWith = "endswith",
        /// Matches a regular expression from beginning to end.
        Regex = "regex",
        /// Some value is one of these.
        Intersects = "intersects",
        /// Is one of these.
        In = "in",
        /// Is one of these paths or below one.
        PathPrefix = "pmatch",
    }
}

impl Operator {
    /// Whether it asks for less or more, which only numbers can answer.
    pub fn is_order(self) -> bool {
        matches!(
            self,
            Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual
        )
    }

    /// Whether it asks for equality with one or several values.
    pub fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::In | Self::Intersects)
    }
}

words! {
    /// How many of the values on the right must satisfy the operator.
    Quantifier {
        /// Exactly one.
        OneOf = "oneof",
        /// At least one.
        AnyOf = "anyof",
        /// Every one.
        AllOf = "allof",
    }
}

words! {
    /// A function of field values.
    Transformer {
        /// ASCII letters in lower case.
        ToLower = "tolower",
        /// ASCII letters in upper case.
        ToUpper = "toupper",
        /// Decoded from Base64.
        Base64 = "b64",
        /// Last component of a path.
        Basename = "basename",
        /// Length in bytes.
        Length = "len",
        /// Values joined by a separator.
        Join = "join",
        /// Values put together.
        Concat = "concat",
        /// Value of an option on a command line.
        Getopt = "getopt",
    }
}

/// Why a condition cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset.
    pub at: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Reads a condition.
pub fn parse(text: &str) -> Result<Syntax, SyntaxError> {
    let mut parser = Parser { text, at: 0 };
    parser.blanks();
    let syntax = parser.expression(0)?;
    if parser.at < text.len() {
        return Err(parser.unexpected("`and`, `or` or the end"));
    }
    Ok(syntax)
}

/// Reads a field or transformer at the beginning of `text`, as outputs use them; returns its length too.
pub(crate) fn parse_operand(text: &str) -> Option<(Operand, usize)> {
    let mut parser = Parser { text, at: 0 };
    let operand = parser.operand(0).ok()??;
    Some((operand, parser.at))
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError {
            at: self.at,
            message: message.into(),
            help: None,
        }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let rest = self.rest();
        let word: String = rest
            .chars()
            .take_while(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | ','))
            .take(40)
            .collect();
        let found = match (word.is_empty(), rest.chars().next()) {
            (false, _) => format!("`{}`", word.escape_debug()),
            (true, Some(character)) => format!("`{}`", character.escape_debug()),
            (true, None) => "the end of the condition".to_owned(),
        };
        let help = match word.as_str() {
            "AND" | "OR" | "NOT" | "And" | "Or" | "Not" | "IN" => {
                Some(format!("write `{}` in lower case", word.to_lowercase()))
            }
            "&&" => Some("write `and`".to_owned()),
            "||" => Some("write `or`".to_owned()),
            _ => None,
        };
        SyntaxError {
            at: self.at,
            message: format!("expected {wanted}, found {found}"),
            help,
        }
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\u{8}', '\r', '\n']).len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// A keyword, which must be followed by a blank or a parenthesis.
    fn eat_keyword(&mut self, word: &str) -> bool {
        let found = self
            .rest()
            .strip_prefix(word)
            .is_some_and(|after| after.starts_with([' ', '\t', '\u{8}', '\r', '\n', '(']));
        if found {
            self.at += word.len();
        }
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Syntax, SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        let mut alternatives = Vec::new();
        loop {
            let mut conjuncts = Vec::new();
            loop {
                self.blanks();
                let mut negated = false;
                while self.eat_keyword("not") {
                    negated = !negated;
                    self.blanks();
                }
                let term = if self.eat("(") {
                    let inner = self.expression(depth + 1)?;
                    if !self.eat(")") {
                        return Err(self.unexpected("`)`, `and` or `or`"));
                    }
                    inner
                } else {
                    self.check()?
                };
                conjuncts.push(if negated { Syntax::Not(Box::new(term)) } else { term });
                self.blanks();
                if !self.eat_keyword("and") {
                    break;
                }
            }
            alternatives.push(one_or(conjuncts, Syntax::And));
            if !self.eat_keyword("or") {
                return Ok(one_or(alternatives, Syntax::Or));
            }
        }
    }

    fn check(&mut self) -> Result<Syntax, SyntaxError> {
        let start = self.at;
        let Some(left) = self.operand(0)? else {
            let Some(name) = self.identifier() else {
                return Err(self.unexpected("a field, a macro or `(`"));
            };
            if matches!(name, "and" | "or" | "not") {
                self.at = start;
                return Err(self.unexpected("a field, a macro or `(`"));
            }
            return Ok(Syntax::Macro {
                name: name.to_owned(),
                span: start..self.at,
            });
        };
        self.blanks();
        let operator_start = self.at;
        let operator = self.operator()?;
        let operator_span = operator_start..self.at;
        self.blanks();
        let (quantifier, right) = self.right(operator)?;
        let span = start..self.at;
        Ok(Syntax::Check(Box::new(Check {
            left,
            operator,
            operator_span,
            quantifier,
            right,
            span,
        })))
    }

    fn operator(&mut self) -> Result<Operator, SyntaxError> {
        for (symbol, operator) in [
            ("<=", Operator::LessOrEqual),
            ("<", Operator::Less),
            (">=", Operator::GreaterOrEqual),
            (">", Operator::Greater),
            ("==", Operator::Equal),
            ("=", Operator::Equal),
            ("!=", Operator::NotEqual),
        ] {
            if self.eat(symbol) {
                return Ok(operator);
            }
        }
        let length = self
            .rest()
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest().len());
        let word = &self.rest()[..length];
        let found = Operator::ALL.iter().copied().find(|operator| operator.word() == word);
        let Some(operator) = found.filter(|_| !word.is_empty()) else {
            let mut error = self.unexpected("an operator");
            let names = Operator::ALL.iter().map(|operator| operator.word());
            error.help = match word {
                "" if self.rest().starts_with('~') => Some("use `regex`".to_owned()),
                "matches" => Some("use `regex`".to_owned()),
                "is" => Some("use `=`".to_owned()),
                _ => crate::diagnostic::did_you_mean(word, names),
            };
            return Err(error);
        };
        let after = &self.rest()[length..];
        let needs_blank = !matches!(
            operator,
            Operator::Exists | Operator::In | Operator::Intersects | Operator::PathPrefix
        );
        if needs_blank && !after.starts_with([' ', '\t', '\u{8}', '\r', '\n']) {
            self.at += length;
            return Err(self.unexpected(&format!("a blank after `{word}`")));
        }
        self.at += length;
        Ok(operator)
    }

    fn right(&mut self, operator: Operator) -> Result<(Option<Quantifier>, Right), SyntaxError> {
        match operator {
            Operator::Exists => Ok((None, Right::None)),
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                if let Some(field) = self.right_field()? {
                    return Ok((None, Right::Field(field)));
                }
                match self.number() {
                    Some(number) => Ok((None, Right::Literal(number))),
                    None => Err(self.unexpected("a number")),
                }
            }
            Operator::In | Operator::Intersects | Operator::PathPrefix => {
                if self.eat("(") {
                    return Ok((None, Right::List(self.values()?)));
                }
                if operator != Operator::PathPrefix
                    && let Some(field) = self.right_field()?
                {
                    return Ok((None, Right::Field(field)));
                }
                let start = self.at;
                match self.identifier() {
                    Some(name) => Ok((
                        None,
                        Right::List(vec![Literal {
                            text: name.to_owned(),
                            span: start..self.at,
                        }]),
                    )),
                    None => Err(self.unexpected("`(` and values")),
                }
            }
            Operator::Equal
            | Operator::NotEqual
            | Operator::Glob
            | Operator::GlobFold
            | Operator::Contains
            | Operator::ContainsFold
            | Operator::BytesContain
            | Operator::StartsWith
            | Operator::BytesStartWith
            | Operator::EndsWith
            | Operator::Regex => {
                let start = self.at;
                for quantifier in Quantifier::ALL {
                    if self.eat_keyword(quantifier.word()) {
                        self.blanks();
                        if self.eat("(") {
                            return Ok((Some(*quantifier), Right::List(self.values()?)));
                        }
                        self.at = start;
                    }
                }
                if operator != Operator::Regex
                    && let Some(field) = self.right_field()?
                {
                    return Ok((None, Right::Field(field)));
                }
                match self.value(is_bare)? {
                    Some(value) => Ok((None, Right::Literal(value))),
                    None => Err(self.unexpected("a value")),
                }
            }
        }
    }

    /// Values up to the closing parenthesis.
    fn values(&mut self) -> Result<Vec<Literal>, SyntaxError> {
        let mut values = Vec::new();
        self.blanks();
        if self.eat(")") {
            return Ok(values);
        }
        loop {
            self.blanks();
            match self.value(is_bare_in_list)? {
                Some(value) => values.push(value),
                None => return Err(self.unexpected("a value")),
            }
            self.blanks();
            if self.eat(")") {
                return Ok(values);
            }
            if !self.eat(",") {
                let mut error = self.unexpected("`,` or `)`");
                error.help = Some("put values that contain blanks in quotes".to_owned());
                return Err(error);
            }
        }
    }

    fn value(&mut self, bare: fn(char) -> bool) -> Result<Option<Literal>, SyntaxError> {
        let start = self.at;
        if let Some(text) = self.quoted()? {
            return Ok(Some(Literal {
                text,
                span: start..self.at,
            }));
        }
        let length = self.rest().find(|c| !bare(c)).unwrap_or(self.rest().len());
        if length == 0 {
            return Ok(None);
        }
        self.at += length;
        Ok(Some(Literal {
            text: self.text[start..self.at].to_owned(),
            span: start..self.at,
        }))
    }

    fn quoted(&mut self) -> Result<Option<String>, SyntaxError> {
        let Some(quote) = self.rest().bytes().next().filter(|byte| matches!(byte, b'"' | b'\'')) else {
            return Ok(None);
        };
        let start = self.at;
        let source = self.text.as_bytes();
        let mut text = Vec::new();
        let mut at = start + 1;
        while let Some(byte) = source.get(at).copied() {
            if byte == quote {
                self.at = at + 1;
                return match String::from_utf8(text) {
                    Ok(text) => Ok(Some(text)),
                    Err(_) => {
                        let mut error = self.error("text with these escapes is not UTF-8");
                        error.at = start;
                        Err(error)
                    }
                };
            }
            if byte != b'\\' {
                text.push(byte);
                at += 1;
                continue;
            }
            let Some(escaped) = source.get(at + 1).copied() else {
                break;
            };
            text.push(match escaped {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'\\' | b' ' => b'\\',
                b'/' => b'/',
                found if found == quote => quote,
                b'x' => {
                    let digits = self
                        .text
                        .get(at + 2..at + 4)
                        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
                    let Some(code) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                        self.at = at;
                        return Err(self.error("`\\x` must be followed by two hexadecimal digits"));
                    };
                    at += 2;
                    code
                }
                _ => {
                    self.at = at;
                    let other = self.text[at + 1..].chars().next().unwrap_or_default();
                    let mut error = self.error(format!("unknown escape `\\{}`", other.escape_debug()));
                    error.help = Some("write a backslash as `\\\\`".to_owned());
                    return Err(error);
                }
            });
            at += 2;
        }
        let mut error = self.error(format!("text in quotes has no closing `{}`", char::from(quote)));
        error.at = start;
        Err(error)
    }

    fn number(&mut self) -> Option<Literal> {
        let rest = self.rest().as_bytes();
        let digits = |from: usize, test: fn(&u8) -> bool| rest[from..].iter().take_while(|byte| test(byte)).count();
        let mut length;
        if rest.starts_with(b"0x") || rest.starts_with(b"0X") {
            length = digits(2, u8::is_ascii_hexdigit);
            if length == 0 {
                return None;
            }
            length += 2;
        } else {
            let sign = usize::from(rest.first().is_some_and(|byte| matches!(byte, b'+' | b'-')));
            let whole = digits(sign, u8::is_ascii_digit);
            if whole == 0 {
                return None;
            }
            length = sign + whole;
            if rest.get(length) == Some(&b'.') {
                length += 1 + digits(length + 1, u8::is_ascii_digit);
            }
            if rest.get(length).is_some_and(|byte| matches!(byte, b'e' | b'E')) {
                let sign = usize::from(rest.get(length + 1).is_some_and(|byte| matches!(byte, b'+' | b'-')));
                let exponent = digits((length + 1 + sign).min(rest.len()), u8::is_ascii_digit);
                if exponent > 0 {
                    length += 1 + sign + exponent;
                }
            }
        }
        let start = self.at;
        self.at += length;
        Some(Literal {
            text: self.text[start..self.at].to_owned(),
            span: start..self.at,
        })
    }

    fn identifier(&mut self) -> Option<&'t str> {
        let length = identifier_length(self.rest())?;
        let name = &self.rest()[..length];
        self.at += length;
        Some(name)
    }

    /// A field of another check's right side: `val(…)` or a transformer.
    fn right_field(&mut self) -> Result<Option<Operand>, SyntaxError> {
        if self.eat("val(") {
            self.blanks();
            let start = self.at;
            let operand = match self.field()? {
                Some(field) => Operand::Field(field),
                None => {
                    self.at = start;
                    return Err(self.unexpected("a field"));
                }
            };
            self.blanks();
            if !self.eat(")") {
                return Err(self.unexpected("`)`"));
            }
            return Ok(Some(operand));
        }
        self.transformed(0)
    }

    /// A field or a transformer.
    fn operand(&mut self, depth: usize) -> Result<Option<Operand>, SyntaxError> {
        if let Some(transformed) = self.transformed(depth)? {
            return Ok(Some(transformed));
        }
        Ok(self.field()?.map(Operand::Field))
    }

    fn field(&mut self) -> Result<Option<FieldName>, SyntaxError> {
        let start = self.at;
        let Some(mut length) = identifier_length(self.rest()) else {
            return Ok(None);
        };
        let mut segments = 1;
        while let Some(more) = self.rest()[length..].strip_prefix('.').and_then(identifier_length) {
            length += 1 + more;
            segments += 1;
        }
        if segments == 1 {
            return Ok(None);
        }
        self.at += length;
        let name = self.text[start..self.at].to_owned();
        let argument = self.brackets()?;
        Ok(Some(FieldName {
            name,
            argument,
            span: start..self.at,
        }))
    }

    fn brackets(&mut self) -> Result<Option<String>, SyntaxError> {
        if !self.eat("[") {
            return Ok(None);
        }
        let argument = self.value(|c| !c.is_whitespace() && !matches!(c, '[' | ']' | '"' | '\''))?;
        let Some(argument) = argument else {
            return Err(self.unexpected("an argument in brackets"));
        };
        if !self.eat("]") {
            return Err(self.unexpected("`]`"));
        }
        Ok(Some(argument.text))
    }

    fn transformed(&mut self, depth: usize) -> Result<Option<Operand>, SyntaxError> {
        let start = self.at;
        let found = Transformer::ALL.iter().find(|transformer| {
            self.rest()
                .strip_prefix(transformer.word())
                .is_some_and(|after| after.starts_with('('))
        });
        let Some(transformer) = found.copied() else {
            return Ok(None);
        };
        if depth > TRANSFORMER_DEPTH_MAX {
            return Err(self.error(format!(
                "transformers nested more than {TRANSFORMER_DEPTH_MAX} levels deep"
            )));
        }
        self.at += transformer.word().len() + 1;
        let mut arguments = Vec::new();
        loop {
            self.blanks();
            arguments.push(self.argument(depth)?);
            self.blanks();
            if self.eat(")") {
                break;
            }
            if !self.eat(",") {
                return Err(self.unexpected("`,` or `)`"));
            }
        }
        let index = self.brackets()?;
        Ok(Some(Operand::Transformed {
            transformer,
            arguments,
            index,
            span: start..self.at,
        }))
    }

    fn argument(&mut self, depth: usize) -> Result<Argument, SyntaxError> {
        if depth > TRANSFORMER_DEPTH_MAX {
            return Err(self.error(format!(
                "transformers nested more than {TRANSFORMER_DEPTH_MAX} levels deep"
            )));
        }
        if let Some(operand) = self.operand(depth + 1)? {
            return Ok(Argument::Operand(operand));
        }
        if self.eat("(") {
            let mut items = Vec::new();
            self.blanks();
            while !self.eat(")") {
                items.push(self.argument(depth + 1)?);
                self.blanks();
                if self.eat(",") {
                    self.blanks();
                } else if !self.rest().starts_with(')') {
                    return Err(self.unexpected("`,` or `)`"));
                }
            }
            return Ok(Argument::List(items));
        }
        let start = self.at;
        if let Some(text) = self.quoted()? {
            return Ok(Argument::Literal(Literal {
                text,
                span: start..self.at,
            }));
        }
        match self.number() {
            Some(number) => Ok(Argument::Literal(number)),
            None => Err(self.unexpected("a field, text in quotes or a number")),
        }
    }
}

/// Transformers hardly nest; their recursion takes more stack than parentheses.
const TRANSFORMER_DEPTH_MAX: usize = 100;

fn one_or(mut terms: Vec<Syntax>, several: fn(Vec<Syntax>) -> Syntax) -> Syntax {
    if terms.len() == 1 {
        terms.remove(0)
    } else {
        several(terms)
    }
}

/// Length of `[a-zA-Z]+[a-zA-Z0-9_]*` at the beginning of `text`.
fn identifier_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if !bytes.first()?.is_ascii_alphabetic() {
        return None;
    }
    Some(
        bytes
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
            .count(),
    )
}

fn is_bare(character: char) -> bool {
    !matches!(character, '(' | ')' | '"' | '\'' | '=' | ',') && !is_blank(character)
}

/// Values of lists may contain `=`: only blanks, quotes, commas and parentheses end them.
fn is_bare_in_list(character: char) -> bool {
    is_bare(character) || character == '='
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n' | '\u{8}' | '\u{b}' | '\u{c}')
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, terms: &[Self], word: &str| {
            for (index, term) in terms.iter().enumerate() {
                if index > 0 {
                    write!(f, " {word} ")?;
                }
                match term {
                    Self::And(_) | Self::Or(_) => write!(f, "({term})")?,
                    Self::Not(_) | Self::Macro { .. } | Self::Check(_) => write!(f, "{term}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::And(terms) => joined(f, terms, "and"),
            Self::Or(terms) => joined(f, terms, "or"),
            Self::Not(term) => match **term {
                Self::Macro { .. } | Self::Check(_) => write!(f, "not {term}"),
                Self::And(_) | Self::Or(_) | Self::Not(_) => write!(f, "not ({term})"),
            },
            Self::Macro { name, .. } => f.write_str(name),
            Self::Check(check) => write!(f, "{check}"),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.left, self.operator)?;
        if let Some(quantifier) = self.quantifier {
            write!(f, " {quantifier}")?;
        }
        match &self.right {
            Right::None => Ok(()),
            Right::Literal(literal) if self.operator.is_order() => write!(f, " {}", literal.text),
            Right::Literal(literal) => write!(f, " {literal}"),
            Right::List(values) => {
                let values: Vec<String> = values.iter().map(Literal::to_string).collect();
                write!(f, " ({})", values.join(", "))
            }
            Right::Field(Operand::Field(field)) => write!(f, " val({field})"),
            Right::Field(operand) => write!(f, " {operand}"),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(field) => write!(f, "{field}"),
            Self::Transformed {
                transformer,
                arguments,
                index,
                ..
            } => {
                let arguments: Vec<String> = arguments.iter().map(Argument::to_string).collect();
                write!(f, "{transformer}({})", arguments.join(", "))?;
                write_brackets(f, index.as_deref())
            }
        }
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        write_brackets(f, self.argument.as_deref())
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operand(operand) => write!(f, "{operand}"),
            Self::Literal(literal) => write_quoted(f, &literal.text),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "({})", items.join(", "))
            }
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '+');
        if !self.text.is_empty() && self.text.chars().all(is_plain) {
            return f.write_str(&self.text);
        }
        write_quoted(f, &self.text)
    }
}

fn write_brackets(f: &mut fmt::Formatter<'_>, argument: Option<&str>) -> fmt::Result {
    let Some(argument) = argument else { return Ok(()) };
    f.write_str("[")?;
    if !argument.is_empty()
        && argument
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
    {
        f.write_str(argument)?;
    } else {
        write_quoted(f, argument)?;
    }
    f.write_str("]")
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for character in text.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            control if control.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(control))?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read() {
        for (text, printed) in [
            ("proc.name=cat", "proc.name = cat"),
            ("proc.name == cat", "proc.name = cat"),
            ("proc.name != \"a b\"", "proc.name != \"a b\""),
            ("a and b or c and not d", "(a and b) or (c and not d)"),
            ("not not a", "a"),
            ("not not not a", "not a"),
            ("not(a or b)", "not (a or b)"),
            ("a and(b)or(c)", "(a and b) or c"),
            ("((a))", "a"),
            ("proc.name in (sh, bash,\n 'z sh')", "proc.name in (sh, bash, \"z sh\")"),
            ("proc.name in ()", "proc.name in ()"),
            ("proc.name in(a)", "proc.name in (a)"),
            ("proc.pname exists", "proc.pname exists"),
            ("not proc.pname exists or a", "not proc.pname exists or a"),
            ("fd.num>=0", "fd.num >= 0"),
            ("evt.rawres < -1", "evt.rawres < -1"),
            ("fd.num<0x1F", "fd.num < 0x1F"),
            ("proc.aname[2]=sh", "proc.aname[2] = sh"),
            ("proc.env['A B'] exists", "proc.env[\"A B\"] exists"),
            ("evt.arg.path startswith /etc", "evt.arg.path startswith /etc"),
            ("proc.name in (runc:[0:PARENT])", "proc.name in (\"runc:[0:PARENT]\")"),
            ("proc.name = val(proc.pname)", "proc.name = val(proc.pname)"),
            (
                "tolower(proc.name) = tolower(proc.pname)",
                "tolower(proc.name) = tolower(proc.pname)",
            ),
            (
                "proc.cmdline contains anyof (a, b)",
                "proc.cmdline contains anyof (a, b)",
            ),
            ("proc.cmdline contains oneof", "proc.cmdline contains oneof"),
            (
                "concat(proc.name, \" x\", 1) = a",
                "concat(proc.name, \" x\", \"1\") = a",
            ),
            (
                "join(\",\", (proc.name, proc.pname)) = a",
                "join(\",\", (proc.name, proc.pname)) = a",
            ),
            (r#"proc.name = "a\"\\\n\x41""#, r#"proc.name = "a\"\\\nA""#),
            (r#"proc.name = "\xe2\x80\xae""#, "proc.name = \"\u{202e}\""),
            ("proc.name in shells", "proc.name in (shells)"),
            ("proc.args=\"\"", "proc.args = \"\""),
        ] {
            match parse(text) {
                Ok(syntax) => assert_eq!(syntax.to_string(), printed, "{text}"),
                Err(error) => panic!("{text}: {error:?}"),
            }
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, at, message) in [
            (
                "",
                0,
                "expected a field, a macro or `(`, found the end of the condition",
            ),
            ("a and", 2, "expected `and`, `or` or the end, found `and`"),
            (
                "a and ",
                6,
                "expected a field, a macro or `(`, found the end of the condition",
            ),
            ("a b", 2, "expected `and`, `or` or the end, found `b`"),
            ("(a", 2, "expected `)`, `and` or `or`, found the end of the condition"),
            ("a)", 1, "expected `and`, `or` or the end, found `)`"),
            ("proc.name", 9, "expected an operator, found the end of the condition"),
            ("proc.name containz x", 10, "expected an operator, found `containz`"),
            (
                "proc.name contains",
                18,
                "expected a blank after `contains`, found the end of the condition",
            ),
            ("proc.name in (a b)", 16, "expected `,` or `)`, found `b`"),
            ("proc.name in (a,)", 16, "expected a value, found `)`"),
            ("proc.name = \"a", 12, "text in quotes has no closing `\"`"),
            ("proc.name = \"a\\q\"", 14, "unknown escape `\\q`"),
            (
                "proc.name = \"\\xZZ\"",
                13,
                "`\\x` must be followed by two hexadecimal digits",
            ),
            ("proc.name = \"\\xff\"", 12, "text with these escapes is not UTF-8"),
            ("proc.pid > abc", 11, "expected a number, found `abc`"),
            ("proc.aname[ = x", 11, "expected an argument in brackets, found ` `"),
            ("a AND b", 2, "expected `and`, `or` or the end, found `AND`"),
            ("tolower(proc.name = x", 18, "expected `,` or `)`, found `=`"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.at, error.message.as_str()), (at, message), "{text}");
        }
    }

    #[test]
    fn depth_is_limited() {
        let nested = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(
            parse(&nested(DEPTH_MAX + 1))
                .unwrap_err()
                .message
                .contains("levels deep")
        );
        assert!(parse(&format!("{}a", "not (".repeat(DEPTH_MAX * 20))).is_err());
        assert!(parse(&format!("{}proc.name", "tolower(".repeat(DEPTH_MAX * 20))).is_err());
        assert!(parse(&format!("join({}", "(".repeat(DEPTH_MAX * 20))).is_err());
    }
}
