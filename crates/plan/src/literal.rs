//! Python literals, read from the syntax tree. Whatever would have to be computed is not a literal.

use ruff_python_ast::{Expr, Number, UnaryOp};
use ruff_text_size::{Ranged, TextRange};

/// A literal and its place in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Literal {
    pub(crate) value: Value,
    pub(crate) range: TextRange,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    /// A list, tuple or set.
    List(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Float(_) => "a float",
            Self::Str(_) => "a string",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
        }
    }
}

/// Reads an expression; the error is the place of the first part that is not a literal.
pub(crate) fn read(expression: &Expr) -> Result<Literal, TextRange> {
    let range = expression.range();
    let value = match expression {
        Expr::NoneLiteral(_) => Value::None,
        Expr::BooleanLiteral(literal) => Value::Bool(literal.value),
        Expr::StringLiteral(literal) => Value::Str(literal.value.to_str().to_owned()),
        Expr::NumberLiteral(literal) => match &literal.value {
            Number::Int(number) => Value::Int(number.as_i64().ok_or(range)?),
            Number::Float(number) => Value::Float(*number),
            Number::Complex { .. } => return Err(range),
        },
        Expr::UnaryOp(unary) => match (unary.op, read(&unary.operand)?.value) {
            (UnaryOp::USub, Value::Int(number)) => Value::Int(-number),
            (UnaryOp::USub, Value::Float(number)) => Value::Float(-number),
            (UnaryOp::UAdd, value @ (Value::Int(_) | Value::Float(_))) => value,
            _ => return Err(range),
        },
        Expr::List(list) => Value::List(all(&list.elts)?),
        Expr::Tuple(tuple) => Value::List(all(&tuple.elts)?),
        Expr::Set(set) => Value::List(all(&set.elts)?),
        Expr::Dict(dict) => {
            let items = dict.items.iter().map(|item| match &item.key {
                Some(key) => Ok((read(key)?, read(&item.value)?)),
                None => Err(item.value.range()),
            });
            Value::Dict(items.collect::<Result<_, _>>()?)
        }
        _ => return Err(range),
    };
    Ok(Literal { value, range })
}

fn all(expressions: &[Expr]) -> Result<Vec<Literal>, TextRange> {
    expressions.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<Value, String> {
        let parsed = ruff_python_parser::parse_expression(text).expect("valid Python");
        read(parsed.expr()).map(|literal| literal.value).map_err(|range| text[range].to_owned())
    }

    #[test]
    fn literals() {
        assert_eq!(value("'a' 'b'"), Ok(Value::Str("ab".into())));
        assert_eq!(value("-1_000"), Ok(Value::Int(-1000)));
        assert_eq!(value("1.5"), Ok(Value::Float(1.5)));
        assert_eq!(value("r'\\d'"), Ok(Value::Str("\\d".into())));
        assert!(matches!(value("[('a'), None]"), Ok(Value::List(items)) if items.len() == 2));
        for (text, culprit) in [
            ("f'{x}'", "f'{x}'"),
            ("[1, X]", "X"),
            ("{'a': f()}", "f()"),
            ("{**x}", "x"),
            ("1 + 1", "1 + 1"),
            ("not True", "not True"),
            ("2j", "2j"),
            ("99999999999999999999", "99999999999999999999"),
        ] {
            assert_eq!(value(text), Err(culprit.to_owned()), "{text}");
        }
    }
}
