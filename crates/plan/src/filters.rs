//! Filters and parameters as text: `$name` becomes a literal, bare dates become DATE and TIMESTAMP literals.
//!
//! Both are done on tokens, so nothing inside strings, quoted names and comments changes.

use std::ops::{ControlFlow, Range};
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{Expr, visit_expressions};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use regex::Regex;

use crate::physical::Literal;
use crate::text::{Edited, Text};

/// Whether bare dates are read as dates (filters) or as the subtractions they are in SQL (queries).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dates {
    Bare,
    Quoted,
}

/// Why text could not be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FillError {
    /// Not SQL tokens at all; the place is a byte offset.
    Tokens { why: String, at: usize },
    /// No such parameter.
    UnknownParameter { name: String, at: usize },
}

/// Tokens with their byte ranges.
pub(crate) fn tokens(text: &Text<'_>) -> Result<Vec<(Token, Range<usize>)>, FillError> {
    let tokens = Tokenizer::new(&GenericDialect {}, text.text)
        .with_unescape(false)
        .tokenize_with_location()
        .map_err(|error| FillError::Tokens { why: error.message, at: text.offset(error.location) })?;
    let ranged = |TokenWithSpan { token, span }| (token, text.offset(span.start)..text.offset(span.end));
    Ok(tokens.into_iter().map(ranged).collect())
}

/// Fills in parameters (`None`: leave them) and reads bare dates.
pub(crate) fn fill(text: &str, parameters: Option<&[(String, Literal)]>, dates: Dates) -> Result<Edited, FillError> {
    let tokens = tokens(&Text::new("", text))?;
    let mut edits = Vec::new();
    for (token, range) in &tokens {
        if let (Token::Placeholder(placeholder), Some(parameters)) = (token, parameters)
            && let Some(name) = placeholder.strip_prefix('$')
        {
            match parameters.iter().find(|(known, _)| known == name) {
                Some((_, value)) => edits.push((range.clone(), sql_literal(value))),
                None => return Err(FillError::UnknownParameter { name: name.to_owned(), at: range.start }),
            }
        }
    }
    if dates == Dates::Bare {
        edits.extend(bare_dates(text, &tokens));
    }
    Ok(Edited::new(text, edits))
}

/// The commas right before a FROM, which some dialects allow.
pub(crate) fn trailing_commas(tokens: &[(Token, Range<usize>)]) -> Vec<Range<usize>> {
    let solid: Vec<&(Token, Range<usize>)> = tokens.iter().filter(|(token, _)| !matches!(token, Token::Whitespace(_))).collect();
    let is_from = |token: &Token| matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("from"));
    solid.windows(2).filter(|pair| pair[0].0 == Token::Comma && is_from(&pair[1].0)).map(|pair| pair[0].1.clone()).collect()
}

static BARE_DATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:\d{2})?)?").expect("a valid pattern")
});

/// Replacements for `2023-01-01` and `2023-01-01T10:00:00` in the code part of `text`.
fn bare_dates(text: &str, tokens: &[(Token, Range<usize>)]) -> Vec<(Range<usize>, String)> {
    let mut edits = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let run = tokens[index..].iter().take_while(|(token, _)| is_code(token)).count();
        if run == 0 {
            index += 1;
            continue;
        }
        let span = tokens[index].1.start..tokens[index + run - 1].1.end;
        for found in BARE_DATE.find_iter(&text[span.clone()]) {
            let range = span.start + found.start()..span.start + found.end();
            if stands_alone(text, &range)
                && let Some(literal) = date_literal(found.as_str())
            {
                edits.push((range, literal));
            }
        }
        index += run;
    }
    edits
}

/// Tokens a bare date can consist of.
fn is_code(token: &Token) -> bool {
    matches!(token, Token::Number(..) | Token::Minus | Token::Plus | Token::Colon | Token::Word(_) | Token::Period)
        && !matches!(token, Token::Word(word) if word.quote_style.is_some())
}

/// Neither side continues the number or name: `12023-01-01`, `x.2023-01-01` and `2023-01-01-1` stay arithmetic.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let joins = |c: char| c.is_alphanumeric() || "_.$-+:\"'".contains(c);
    !text[..range.start].chars().next_back().is_some_and(joins) && !text[range.end..].chars().next().is_some_and(joins)
}

/// The literal for a date or timestamp that exists in the calendar.
fn date_literal(text: &str) -> Option<String> {
    let part = |range: Range<usize>| text.get(range).and_then(|digits| digits.parse::<u32>().ok());
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=days).contains(&day) || year == 0 {
        return None;
    }
    if text.len() == 10 {
        return Some(format!("DATE '{text}'"));
    }
    let seconds = if text.as_bytes().get(16) == Some(&b':') { part(17..19)? } else { 0 };
    (part(11..13)? < 24 && part(14..16)? < 60 && seconds < 60).then(|| {
        // The cast of DataFusion wants seconds.
        let (minutes, rest) = text.split_at(16);
        let seconds = if rest.starts_with(':') { "" } else { ":00" };
        format!("TIMESTAMP '{minutes}{seconds}{rest}'")
    })
}

/// A value as SQL.
pub(crate) fn sql_literal(value: &Literal) -> String {
    match value {
        Literal::Null => "NULL".to_owned(),
        Literal::Bool(true) => "TRUE".to_owned(),
        Literal::Bool(false) => "FALSE".to_owned(),
        Literal::Int(number) if *number < 0 => format!("({number})"),
        Literal::Int(number) => number.to_string(),
        Literal::Float(number) if number.is_sign_negative() => format!("({number:?})"),
        Literal::Float(number) => format!("{number:?}"),
        Literal::Str(text) => format!("'{}'", text.replace('\'', "''")),
    }
}

/// A name as SQL, always quoted.
pub(crate) fn sql_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Parses one expression and nothing after it.
pub(crate) fn parse(text: &str) -> Result<Expr, String> {
    let shown = |error: datafusion::sql::sqlparser::parser::ParserError| crate::sql::parser_message(&error.to_string());
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).map_err(shown)?;
    let expression = parser.parse_expr().map_err(shown)?;
    match parser.peek_token().token {
        Token::EOF => Ok(expression),
        other => Err(format!("the expression is complete before `{other}`")),
    }
}

/// Whether a query stands inside the expression.
pub(crate) fn has_subquery(expression: &Expr) -> bool {
    let found = visit_expressions(expression, |part| match part {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Checks an `overwrite_filter` and returns the columns it names. What functions may be in it, its types say later.
pub(crate) fn overwrite_columns(filter: &Expr) -> Result<Vec<String>, String> {
    if has_subquery(filter) {
        return Err("it holds a subquery".to_owned());
    }
    let mut columns: Vec<String> = Vec::new();
    let found = visit_expressions(filter, |part| {
        match part {
            Expr::Identifier(name) => columns.push(name.value.clone()),
            Expr::CompoundIdentifier(_) => return ControlFlow::Break(format!("`{part}` names a table, and there is only one")),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    match found {
        ControlFlow::Break(why) => Err(why),
        ControlFlow::Continue(()) => Ok(columns),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dates(text: &str) -> String {
        fill(text, None, Dates::Bare).expect("tokens").text
    }

    #[test]
    fn bare_dates_become_literals() {
        assert_eq!(dates("t BETWEEN 2023-01-01 AND 2023-02-01"), "t BETWEEN DATE '2023-01-01' AND DATE '2023-02-01'");
        assert_eq!(dates("(t>=2024-02-29)"), "(t>=DATE '2024-02-29')");
        assert_eq!(dates("t < 2023-01-01T10:00:00.5Z"), "t < TIMESTAMP '2023-01-01T10:00:00.5Z'");
        assert_eq!(dates("t < 2023-01-01T10:00"), "t < TIMESTAMP '2023-01-01T10:00:00'");
        assert_eq!(dates("t < 2023-01-01T10:00:00+02:00"), "t < TIMESTAMP '2023-01-01T10:00:00+02:00'");
        for same in [
            "x = 2023 - 01 - 01",
            "x = '2023-01-01'",
            "x = 2023-13-01",
            "x = 2023-02-29",
            "x = 12023-01-01",
            "x = 2023-01-01-1",
            "x = 1-2023-01-01",
            "x = 2023-1-1",
            "DATE '2023-01-01' < x",
            "\"2023-01-01\" = 1",
            "x = 2023-01-011",
            "x /* 2023-01-01 */",
            "a2023-01-01 = 1",
            "t < 2023-01-01T25:00",
        ] {
            assert_eq!(dates(same), same);
        }
    }

    #[test]
    fn parameters_become_literals() {
        let parameters = [
            ("s".to_owned(), Literal::Str("it's -- $n".to_owned())),
            ("n".to_owned(), Literal::Int(-5)),
            ("f".to_owned(), Literal::Float(1.0)),
            ("b".to_owned(), Literal::Bool(true)),
            ("z".to_owned(), Literal::Null),
        ];
        let filled = fill("a=$s AND b>$n-$f OR $b IS $z AND c='$n'", Some(&parameters), Dates::Bare).expect("known parameters");
        assert_eq!(filled.text, "a='it''s -- $n' AND b>(-5)-1.0 OR TRUE IS NULL AND c='$n'");
        let unknown = fill("a = 1 AND b = $q", Some(&parameters), Dates::Bare);
        assert_eq!(unknown, Err(FillError::UnknownParameter { name: "q".to_owned(), at: 14 }));
    }

    #[test]
    fn overwrite_filters() {
        let columns = |text: &str| overwrite_columns(&parse(text).expect("an expression"));
        assert_eq!(
            columns("(d >= DATE '2023-01-01' AND d < '2024') OR c NOT IN ('a', 'b') AND n = -1"),
            Ok(vec!["d".into(), "d".into(), "c".into(), "n".into()])
        );
        assert_eq!(columns("d BETWEEN 1 AND 2 OR c LIKE 'x%' AND d IS NULL").unwrap().len(), 3);
        assert_eq!(columns("date_trunc('month', \"d d\") = DATE '2023-01-01' AND NOT c"), Ok(vec!["d d".into(), "c".into()]));
        for bad in ["d IN (SELECT 1)", "EXISTS (SELECT 1)", "t.d = 1"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever the text of a parameter is, it arrives as exactly one string token with that value.
        #[test]
        fn a_parameter_cannot_escape(value in "\\PC{0,20}") {
            let parameters = [("p".to_owned(), Literal::Str(value.clone()))];
            let filled = fill("a = $p AND b = 2", Some(&parameters), Dates::Bare).expect("a known parameter").text;
            let parsed = Tokenizer::new(&GenericDialect {}, &filled).tokenize().expect("tokens");
            let solid: Vec<Token> = parsed.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
            prop_assert_eq!(solid.len(), 7);
            prop_assert_eq!(&solid[2], &Token::SingleQuotedString(value));
        }

        /// Dates are rewritten exactly when they are in the calendar, whatever stands around them.
        #[test]
        fn dates_of_the_calendar(y in 1u32..9999, m in 0u32..15, d in 0u32..34, before in "[a-z ]{0,5}", quoted in any::<bool>()) {
            let naive = (1..=12).contains(&m) && {
                let days = [31, if y % 400 == 0 || (y % 4 == 0 && y % 100 != 0) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
                d >= 1 && d <= days[(m - 1) as usize]
            };
            let date = format!("{y:04}-{m:02}-{d:02}");
            let text = if quoted { format!("{before} = '{date}'") } else { format!("{before} = {date} OR z") };
            let expected = if naive && !quoted { text.replace(&date, &format!("DATE '{date}'")) } else { text.clone() };
            prop_assert_eq!(dates(&text), expected);
        }
    }
}
