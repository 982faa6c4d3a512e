//! Numbers in SQL that 64 bits do not hold keep their digits.
//!
//! The SQL planner reads every number that is no 64-bit integer as a double, so `200000000000000000000` and
//! `0.12345678901234567890` would lose digits before they meet a decimal column. Here such a number becomes a decimal literal of
//! exactly its digits. `1.5`, `1e30` and every other number that a double gives back as it was written stay doubles: arithmetic
//! with decimals rounds divisions to a few digits and gives Python `Decimal` objects, which nobody asked for who writes `x / 3.0`.

use std::ops::ControlFlow;

use arrow::datatypes::DECIMAL256_MAX_PRECISION;
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, UnaryOperator, Value, VisitMut, visit_expressions_mut,
};

/// Makes decimals of the numbers in `sql` that are too long for 64 bits.
pub(crate) fn keep_digits(sql: &mut impl VisitMut) {
    let visited: ControlFlow<()> = visit_expressions_mut(sql, |part| {
        match part {
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => make_decimal(expr, "-"),
            other => make_decimal(other, ""),
        }
        ControlFlow::Continue(())
    });
    debug_assert!(visited.is_continue(), "the visitor does not stop");
}

fn make_decimal(expression: &mut Expr, sign: &str) {
    if let Expr::Value(literal) = expression
        && let Value::Number(digits, _) = &literal.value
        && let Some((precision, scale)) = decimal(digits, sign)
    {
        let text = literal.clone();
        let Value::Number(digits, _) = text.value else { return };
        let text = Expr::Value(Value::SingleQuotedString(digits).with_span(text.span));
        let data_type = DataType::Decimal(ExactNumberInfo::PrecisionAndScale(precision, scale));
        *expression = Expr::Cast { kind: CastKind::Cast, expr: Box::new(text), data_type, array: false, format: None };
    }
}

/// Digits and digits after the point of a number that is neither a 64-bit integer nor a double, if a decimal can hold it.
fn decimal(number: &str, sign: &str) -> Option<(u64, i64)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let fits = match number.contains('.') {
        true => significant(&format!("{whole}{fraction}")) == significant(&shortest(number)?),
        false => format!("{sign}{number}").parse::<i64>().is_ok() || (sign.is_empty() && number.parse::<u64>().is_ok()),
    };
    let precision = (whole.len() + fraction.len()).max(1);
    (!fits && precision <= usize::from(DECIMAL256_MAX_PRECISION))
        .then_some((u64::try_from(precision).ok()?, i64::try_from(fraction.len()).ok()?))
}

/// The fewest digits that tell the double of `number` from others.
fn shortest(number: &str) -> Option<String> {
    let text = format!("{:e}", number.parse::<f64>().ok()?);
    Some(text.split('e').next()?.replace('.', ""))
}

fn significant(digits: &str) -> &str {
    digits.trim_start_matches('0').trim_end_matches('0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters;

    fn kept(text: &str) -> String {
        let mut parsed = filters::parse(text).expect("an expression");
        keep_digits(&mut parsed);
        parsed.to_string()
    }

    #[test]
    fn what_64_bits_hold_stays() {
        for same in [
            "x = 1.5",
            "x = -0.0",
            "x = 1e30",
            "x = 1.5e-300",
            "x = 3.141592653589793",
            "x = 0.30000000000000004",
            "x = 100000.00000",
            "x = 0000000000000000000000001",
            "x = 18446744073709551615",
            "x = -9223372036854775808",
            "x = '200000000000000000000'",
        ] {
            assert_eq!(kept(same), same);
        }
    }

    #[test]
    fn what_they_do_not_hold_is_a_decimal() {
        for (text, wanted) in [
            ("x = 18446744073709551616", "x = CAST('18446744073709551616' AS DECIMAL(20,0))"),
            ("x > -9223372036854775809", "x > -CAST('9223372036854775809' AS DECIMAL(19,0))"),
            ("x IN (1, 0.12345678901234567890)", "x IN (1, CAST('0.12345678901234567890' AS DECIMAL(20,20)))"),
            ("x < 12345678901234567890.25", "x < CAST('12345678901234567890.25' AS DECIMAL(22,2))"),
        ] {
            assert_eq!(kept(text), wanted);
        }
        let too_long = format!("x = {}", "9".repeat(77));
        assert_eq!(kept(&too_long), too_long);
    }
}
