//! The conditions of Sigma: search identifiers joined by `and`, `or`, `not`, `1 of …` and `all of …`.

use std::ops::Range;

/// Deeper nesting than any rule needs.
const DEPTH_MAX: usize = 64;

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// A search identifier.
    Search(String, Range<usize>),
    /// So many of the search identifiers that a pattern names; of `them` without one.
    Of(Quantity, Option<String>, Range<usize>),
}

/// How many must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    All,
    AtLeast(usize),
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// It is no condition.
    Syntax(usize, String),
    /// An aggregation, as Sigma had them before it had correlations.
    Aggregation(usize),
}

/// Reads a condition.
pub(crate) fn parse(text: &str) -> Result<Expression, Mistake> {
    let mut tokens = tokens(text)?;
    tokens.reverse();
    let mut parser = Parser {
        tokens,
        end: text.len(),
        depth: 0,
    };
    let expression = parser.or()?;
    match parser.tokens.last() {
        None => Ok(expression),
        Some(token) => Err(Mistake::Syntax(
            token.span.start,
            format!("expected `and` or `or`, found `{}`", token.word),
        )),
    }
}

#[derive(Clone, Debug)]
struct Token<'t> {
    word: &'t str,
    span: Range<usize>,
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Mistake> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        if first == '|' {
            return Err(Mistake::Aggregation(at));
        }
        let is_word = |character: char| character.is_alphanumeric() || matches!(character, '_' | '*' | '-' | '.' | '?');
        let length = match first {
            '(' | ')' => 1,
            _ if is_word(first) => text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at),
            _ => {
                let message = format!("`{}` has no meaning in a condition", first.escape_debug());
                return Err(Mistake::Syntax(at, message));
            }
        };
        tokens.push(Token {
            word: &text[at..at + length],
            span: at..at + length,
        });
        at += length;
    }
    Ok(tokens)
}

/// Tokens are taken from the end of the list.
struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn or(&mut self) -> Result<Expression, Mistake> {
        let mut parts = vec![self.and()?];
        while self.takes("or") {
            parts.push(self.and()?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Expression::Or(parts),
        })
    }

    fn and(&mut self) -> Result<Expression, Mistake> {
        let mut parts = vec![self.not()?];
        while self.takes("and") {
            parts.push(self.not()?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Expression::And(parts),
        })
    }

    fn not(&mut self) -> Result<Expression, Mistake> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let message = format!("condition nests more than {DEPTH_MAX} levels deep");
            return Err(Mistake::Syntax(self.at(), message));
        }
        let found = if self.takes("not") {
            Expression::Not(Box::new(self.not()?))
        } else {
            self.one()?
        };
        self.depth -= 1;
        Ok(found)
    }

    fn one(&mut self) -> Result<Expression, Mistake> {
        let Some(token) = self.tokens.pop() else {
            return Err(Mistake::Syntax(
                self.end,
                "the condition ends where a search identifier is missing".to_owned(),
            ));
        };
        if token.word == "(" {
            let inner = self.or()?;
            return match self.takes(")") {
                true => Ok(inner),
                false => Err(Mistake::Syntax(
                    token.span.start,
                    "this parenthesis is not closed".to_owned(),
                )),
            };
        }
        let quantity = match token.word.to_ascii_lowercase().as_str() {
            "all" => Some(Quantity::All),
            "any" => Some(Quantity::AtLeast(1)),
            word => word.parse().ok().map(Quantity::AtLeast),
        };
        if let Some(quantity) = quantity
            && self.takes("of")
        {
            let Some(of) = self.tokens.pop().filter(|of| is_name(of.word)) else {
                return Err(Mistake::Syntax(
                    self.at(),
                    "`of` needs `them` or a pattern, such as `selection_*`".to_owned(),
                ));
            };
            let pattern = (of.word != "them").then(|| of.word.to_owned());
            return Ok(Expression::Of(quantity, pattern, token.span.start..of.span.end));
        }
        match is_name(token.word) {
            true => Ok(Expression::Search(token.word.to_owned(), token.span)),
            false => Err(Mistake::Syntax(
                token.span.start,
                format!("expected a search identifier, found `{}`", token.word),
            )),
        }
    }

    fn at(&self) -> usize {
        self.tokens.last().map_or(self.end, |token| token.span.start)
    }

    fn takes(&mut self, word: &str) -> bool {
        self.tokens
            .pop_if(|token| token.word.eq_ignore_ascii_case(word))
            .is_some()
    }
}

fn is_name(word: &str) -> bool {
    let keywords = ["and", "or", "not", "of", "(", ")"];
    !keywords.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// Whether a pattern with stars names an identifier.
pub(crate) fn names(pattern: &str, identifier: &str) -> bool {
    crate::glob::Glob::new(pattern.as_bytes(), false).is_match(identifier.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With parentheses around everything.
    fn shown(expression: &Expression) -> String {
        let join = |parts: &[Expression], word: &str| {
            let parts: Vec<String> = parts.iter().map(shown).collect();
            format!("({})", parts.join(word))
        };
        match expression {
            Expression::And(parts) => join(parts, " and "),
            Expression::Or(parts) => join(parts, " or "),
            Expression::Not(of) => format!("not {}", shown(of)),
            Expression::Search(name, _) => name.clone(),
            Expression::Of(Quantity::All, pattern, _) => format!("all of {}", pattern.as_deref().unwrap_or("them")),
            Expression::Of(Quantity::AtLeast(count), pattern, _) => {
                format!("{count} of {}", pattern.as_deref().unwrap_or("them"))
            }
        }
    }

    #[test]
    fn conditions() {
        for (text, expected) in [
            ("selection", "selection"),
            ("a or b and not c", "(a or (b and not c))"),
            ("a and (b or c) and d", "(a and (b or c) and d)"),
            (
                "1 of selection_* and not 1 of filter_*",
                "(1 of selection_* and not 1 of filter_*)",
            ),
            ("ALL OF them OR not not a", "(all of them or not not a)"),
            ("any of x-* and 2 of them", "(1 of x-* and 2 of them)"),
            // Words that begin a quantity are names where no `of` follows.
            ("all and 1", "(all and 1)"),
        ] {
            assert_eq!(
                parse(text).map(|found| shown(&found)).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
        for (text, expected) in [
            ("", (0, "the condition ends where a search identifier is missing")),
            ("a and", (5, "the condition ends where a search identifier is missing")),
            ("(a or b", (0, "this parenthesis is not closed")),
            ("a b", (2, "expected `and` or `or`, found `b`")),
            ("1 of", (4, "`of` needs `them` or a pattern, such as `selection_*`")),
            ("and a", (0, "expected a search identifier, found `and`")),
            ("a & b", (2, "`&` has no meaning in a condition")),
        ] {
            assert_eq!(
                parse(text),
                Err(Mistake::Syntax(expected.0, expected.1.to_owned())),
                "{text}"
            );
        }
        assert_eq!(parse("a | count() > 5"), Err(Mistake::Aggregation(2)));
        assert!(parse(&"(".repeat(5000)).is_err() && parse(&"not ".repeat(5000)).is_err());
        assert!(names("selection_*", "selection_a") && !names("selection_*", "selection"));
    }
}
