//! A number written in SQL and compared with a decimal is compared as it is written, digit by digit.
//!
//! DataFusion compares a decimal with a double as `DECIMAL(30, 15)` and clips what is wider than 38 digits, so `1.5` and a value of
//! 38 digits, or `1e-16` and a value with 18 digits after the point, would not meet. Here the number becomes a decimal of just its
//! digits, of 256 bits where 128 do not hold both sides. Compared with a double, the other way round, a number is a double.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, i256};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Rewrites the comparisons of a plan; to be run before types are made equal.
#[derive(Debug)]
pub(crate) struct ExactComparisons;

impl AnalyzerRule for ExactComparisons {
    fn name(&self) -> &'static str {
        "exact_comparisons"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expression| {
                let name = names.save(&expression);
                Ok(exact(expression, &schema)?.update_data(|expression| name.restore(expression)))
            })
        });
        Ok(rewritten?.data)
    }
}

/// Rewrites the comparisons in one expression over `schema`.
pub(crate) fn exact(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    expression.transform_up(|mut part| {
        let changed = match &mut part {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
                compare(left, &mut [right.as_mut()], schema) || compare(right, &mut [left.as_mut()], schema)
            }
            Expr::Between(Between { expr, low, high, .. }) => compare(expr, &mut [low.as_mut(), high.as_mut()], schema),
            Expr::InList(list) => compare(&list.expr, &mut list.list.iter_mut().collect::<Vec<_>>(), schema),
            _ => false,
        };
        Ok(if changed { Transformed::yes(part) } else { Transformed::no(part) })
    })
}

/// Gives the numbers among `others` the type in which they and `value` compare exactly; false if nothing is to be done.
fn compare(value: &Expr, others: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let numbers: Vec<(usize, Number)> =
        others.iter().enumerate().filter_map(|(index, other)| Some((index, Number::of(other)?))).collect();
    if numbers.is_empty() || Number::of(value).is_some() {
        return false;
    }
    let literal: Box<dyn Fn(&Number) -> Option<ScalarValue>> = match value.get_type(schema) {
        Ok(kind) if kind.is_floating() => Box::new(Number::double),
        Ok(DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) | DataType::Decimal128(digits, scale)) => {
            let wide = digits_of_all(i64::from(digits), i64::from(scale), &numbers) > i64::from(DECIMAL128_MAX_PRECISION);
            Box::new(move |number| number.decimal(wide))
        }
        Ok(kind) if kind.is_integer() && numbers.iter().any(|(_, number)| number.is_long) => {
            let wide = digits_of_all(INTEGER_DIGITS, 0, &numbers) > i64::from(DECIMAL128_MAX_PRECISION);
            Box::new(move |number| number.decimal(wide))
        }
        _ => return false,
    };
    let mut changed = false;
    for (index, number) in numbers {
        if let Some(literal) = literal(&number) {
            let literal = Expr::Literal(literal, None);
            changed |= literal != *others[index];
            *others[index] = literal;
        }
    }
    changed
}

/// Digits of any 64-bit integer, at most.
const INTEGER_DIGITS: i64 = 20;

/// Digits of a decimal that holds the numbers and a value of so many digits, `scale` of them after the point.
fn digits_of_all(digits: i64, scale: i64, numbers: &[(usize, Number)]) -> i64 {
    let before = numbers.iter().map(|(_, number)| number.precision() - number.scale).fold(digits - scale, i64::max);
    let after = numbers.iter().map(|(_, number)| number.scale).fold(scale, i64::max);
    before + after
}

/// A number as it is written: `-?digits`, with the point before the last `scale` digits.
struct Number {
    negative: bool,
    digits: String,
    scale: i64,
    /// Longer than a 64-bit number.
    is_long: bool,
}

impl Number {
    fn of(expression: &Expr) -> Option<Self> {
        match expression {
            Expr::Negative(inner) => Self::of(inner).map(|number| Self { negative: !number.negative, ..number }),
            Expr::Literal(ScalarValue::Int64(Some(number)), _) => Self::read(&number.to_string(), 0),
            Expr::Literal(ScalarValue::UInt64(Some(number)), _) => Self::read(&number.to_string(), 0),
            Expr::Literal(ScalarValue::Float64(Some(number)), _) if number.is_finite() => {
                let text = format!("{number:e}");
                let (digits, exponent) = text.split_once('e')?;
                Self::read(digits, exponent.parse().ok()?)
            }
            // What `numbers` makes of a long number.
            Expr::Cast(Cast { expr, field }) if field.data_type().is_decimal() => match expr.as_ref() {
                Expr::Literal(ScalarValue::Utf8(Some(text)), _) => {
                    let number = Self::read(text, 0)?;
                    let same = match field.data_type() {
                        DataType::Decimal128(digits, scale) | DataType::Decimal256(digits, scale) => {
                            i64::from(*digits) >= number.precision() && i64::from(*scale) == number.scale
                        }
                        _ => false,
                    };
                    same.then_some(Self { is_long: true, ..number })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Reads `-?digits(.digits)?`, times ten to the power of `exponent`.
    fn read(text: &str, exponent: i64) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let mut digits = format!("{}{fraction}", whole.trim_start_matches('0'));
        let mut scale = i64::try_from(fraction.len()).ok()? - exponent;
        if scale < 0 {
            digits.push_str(&"0".repeat(usize::try_from(-scale).ok()?));
            scale = 0;
        }
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && digits.len() <= usize::from(DECIMAL256_MAX_PRECISION) && scale <= i64::from(DECIMAL256_MAX_PRECISION))
            .then_some(Self { negative, digits, scale, is_long: false })
    }

    /// Digits of a decimal that holds it.
    fn precision(&self) -> i64 {
        i64::try_from(self.digits.len()).unwrap_or(i64::MAX).max(self.scale).max(1)
    }

    fn decimal(&self, wide: bool) -> Option<ScalarValue> {
        let sign = if self.negative { "-" } else { "" };
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        let (precision, scale) = (u8::try_from(self.precision()).ok()?, i8::try_from(self.scale).ok()?);
        let text = format!("{sign}{digits}");
        if wide || precision > DECIMAL128_MAX_PRECISION {
            return Some(ScalarValue::Decimal256(Some(i256::from_string(&text)?), precision, scale));
        }
        Some(ScalarValue::Decimal128(Some(text.parse().ok()?), precision, scale))
    }

    fn double(&self) -> Option<ScalarValue> {
        let sign = if self.negative { "-" } else { "" };
        // Whole numbers of 64 bits are compared as they are: DataFusion makes doubles of them.
        let text = format!("{sign}{}e-{}", self.digits, self.scale);
        self.is_long.then(|| text.parse().ok().map(|number| ScalarValue::Float64(Some(number))))?
    }
}
