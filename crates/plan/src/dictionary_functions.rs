//! String functions that run on a dictionary's values instead of on the rows.
//!
//! DataFusion unpacks a dictionary before it calls `upper` or `substr` on it. Here its own functions are wrapped, under their own
//! names: with exactly one dictionary of strings among the arguments they are called once per value, and their strings are a
//! dictionary again, over the keys of the argument. Results that are no strings (`length`, `starts_with`) are gathered by key.
//!
//! ```text
//! keys [0 1 1 0]  values [nl us]   --upper-->   keys (the same)  values [NL US]
//!                                  --length-->  [2 2 2 2]
//! ```
//!
//! Invariants: types depend on types alone, so planner and executor agree; the values of a result are distinct and not null,
//! as pandas and polars want them; every function listed is immutable, null for null (`regexp_count` is not), and fails for no value of its own, so that
//! calling it on a value no row has changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_datafusion_err};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
};

/// The functions wrapped, by the names DataFusion gives them; their aliases come along.
const FUNCTIONS: [&str; 31] = [
    "ascii",
    "bit_length",
    "btrim",
    "character_length",
    "contains",
    "ends_with",
    "initcap",
    "left",
    "lower",
    "lpad",
    "ltrim",
    "md5",
    "octet_length",
    "overlay",
    "regexp_like",
    "regexp_replace",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "translate",
    "upper",
];

/// The wrapped functions of a session.
pub(crate) fn wrapped(state: &SessionState) -> Vec<Arc<ScalarUDF>> {
    let known = FUNCTIONS.iter().filter_map(|name| state.scalar_functions().get(*name));
    known.map(|function| Arc::new(ScalarUDF::new_from_impl(OnValues::new(Arc::clone(function))))).collect()
}

/// Plans the forms of functions that have a grammar of their own, `SUBSTRING(s FROM 2)`, with the wrapped ones.
#[derive(Debug)]
pub(crate) struct Planner {
    substr: Arc<ScalarUDF>,
    strpos: Arc<ScalarUDF>,
    overlay: Arc<ScalarUDF>,
}

impl Planner {
    /// Of the wrapped functions.
    pub(crate) fn of(functions: &[Arc<ScalarUDF>]) -> Option<Self> {
        let find = |name: &str| functions.iter().find(|function| function.name() == name).cloned();
        Some(Self { substr: find("substr")?, strpos: find("strpos")?, overlay: find("overlay")? })
    }
}

impl ExprPlanner for Planner {
    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.substr), args))))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.overlay), args))))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.strpos), args))))
    }
}

/// A function that is called on a dictionary's values.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OnValues {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

/// The dictionary among the arguments: its place, and the types of its keys and values.
struct Place {
    at: usize,
    key: DataType,
    value: DataType,
}

impl Place {
    /// `None` unless exactly one of the types is a dictionary, and that one of strings.
    fn of<'a>(kinds: impl IntoIterator<Item = &'a DataType>) -> Option<Self> {
        let mut found = None;
        for (at, kind) in kinds.into_iter().enumerate() {
            match kind {
                DataType::Dictionary(key, value) if value.is_string() && found.is_none() => {
                    found = Some(Self { at, key: (**key).clone(), value: (**value).clone() });
                }
                DataType::Dictionary(..) => return None,
                _ => {}
            }
        }
        found
    }

    fn of_fields(fields: &[FieldRef]) -> Option<Self> {
        Self::of(fields.iter().map(|field| field.data_type()))
    }

    /// The fields with the dictionary's replaced by one of its values.
    fn plain(&self, fields: &[FieldRef]) -> Vec<FieldRef> {
        let mut plain = fields.to_vec();
        plain[self.at] = Arc::new(Field::clone(&plain[self.at]).with_data_type(self.value.clone()));
        plain
    }

    /// The type of a result: dictionaries have plain strings as values, for readers of any age.
    fn result(&self, plain: &DataType) -> DataType {
        match plain {
            DataType::Utf8View | DataType::Utf8 => DataType::Dictionary(Box::new(self.key.clone()), Box::new(DataType::Utf8)),
            DataType::LargeUtf8 => DataType::Dictionary(Box::new(self.key.clone()), Box::new(DataType::LargeUtf8)),
            other => other.clone(),
        }
    }
}

/// A literal of a dictionary's type as a plain literal.
fn undone(value: &ScalarValue) -> &ScalarValue {
    if let ScalarValue::Dictionary(_, inner) = value { inner } else { value }
}

impl OnValues {
    fn new(inner: Arc<ScalarUDF>) -> Self {
        let own = inner.signature();
        let signature = Signature {
            type_signature: TypeSignature::UserDefined,
            volatility: own.volatility,
            parameter_names: own.parameter_names.clone(),
        };
        Self { inner, signature }
    }

    fn has_dictionary(&self, args: &[Expr], info: &SimplifyContext) -> bool {
        let kinds: Vec<DataType> = args.iter().filter_map(|arg| info.get_data_type(arg).ok()).collect();
        kinds.iter().any(|kind| matches!(kind, DataType::Dictionary(..)))
    }

    /// The inner function's result for plain arguments.
    fn plain_field(
        &self,
        place: &Place,
        fields: &[FieldRef],
        scalars: &[Option<&ScalarValue>],
    ) -> Result<(Vec<FieldRef>, FieldRef)> {
        let arg_fields = place.plain(fields);
        let scalars: Vec<Option<&ScalarValue>> = scalars.iter().map(|scalar| scalar.map(undone)).collect();
        let field = self.inner.return_field_from_args(ReturnFieldArgs { arg_fields: &arg_fields, scalar_arguments: &scalars })?;
        Ok((arg_fields, field))
    }

    /// Calls the inner function with `value` for the dictionary.
    fn call(&self, place: &Place, args: &ScalarFunctionArgs, value: ColumnarValue, rows: usize) -> Result<ColumnarValue> {
        let scalars: Vec<Option<&ScalarValue>> =
            args.args.iter().map(|arg| if let ColumnarValue::Scalar(value) = arg { Some(value) } else { None }).collect();
        let (arg_fields, return_field) = self.plain_field(place, &args.arg_fields, &scalars)?;
        let mut plain = args.args.clone();
        plain[place.at] = value;
        self.inner.invoke_with_args(ScalarFunctionArgs {
            args: plain,
            arg_fields,
            number_rows: rows,
            return_field,
            config_options: Arc::clone(&args.config_options),
        })
    }

    fn on_array(&self, place: &Place, args: &ScalarFunctionArgs, array: &ArrayRef) -> Result<ArrayRef> {
        let dictionary = array
            .as_any_dictionary_opt()
            .ok_or_else(|| internal_datafusion_err!("an argument of `{}` is no dictionary", self.name()))?;
        let values = dictionary.values();
        let one_per_call =
            args.args.iter().enumerate().all(|(at, arg)| at == place.at || matches!(arg, ColumnarValue::Scalar(_)));
        let (kind, rows) = (args.return_type(), args.number_rows);
        if !one_per_call || values.len() > rows {
            // Not the same for all rows of a value, or fewer rows than values.
            let unpacked = ColumnarValue::Array(take(values, dictionary.keys(), None)?);
            return Ok(cast(&self.call(place, args, unpacked, rows)?.into_array(rows)?, kind)?);
        }
        let results = self.call(place, args, ColumnarValue::Array(Arc::clone(values)), values.len())?.into_array(values.len())?;
        let DataType::Dictionary(_, value) = kind else { return Ok(take(&results, dictionary.keys(), None)?) };
        let results = cast(&results, value)?;
        match distinct(&results)? {
            None => Ok(dictionary.with_values(results)),
            Some((values, places)) => Ok(rebuilt(dictionary.keys(), &places, values, kind)?),
        }
    }
}

/// A dictionary of strings as consumers want it: distinct values, none null, and not more of them than rows. Anything else comes
/// back as it is. Engines put dictionaries of several batches one after the other, which repeats values.
///
/// # Errors
/// If Arrow cannot rebuild the array.
pub fn tidy_dictionary(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let Some(dictionary) = array.as_any_dictionary_opt().filter(|dictionary| dictionary.values().data_type().is_string()) else {
        return Ok(Arc::clone(array));
    };
    if dictionary.values().len() > array.len() {
        return cast(&take(dictionary.values(), dictionary.keys(), None)?, array.data_type());
    }
    match distinct(dictionary.values())? {
        None => Ok(Arc::clone(array)),
        Some((values, places)) => rebuilt(dictionary.keys(), &places, values, array.data_type()),
    }
}

/// The values without repetitions and nulls, and for each old value the place of its new one; `None` if nothing has to change.
fn distinct(values: &ArrayRef) -> Result<Option<(ArrayRef, Int64Array)>, ArrowError> {
    let strings = cast(values, &DataType::Utf8)?;
    let strings: &StringArray = strings.as_string();
    let mut places: HashMap<&str, i64> = HashMap::with_capacity(strings.len());
    let mut first = Vec::new();
    let mut moved = Vec::with_capacity(strings.len());
    for (row, value) in (0_u32..).zip(strings) {
        moved.push(value.map(|value| {
            *places.entry(value).or_insert_with(|| {
                first.push(row);
                first.len() as i64 - 1
            })
        }));
    }
    if first.len() == strings.len() {
        return Ok(None);
    }
    let distinct = take(values, &UInt32Array::from(first), None)?;
    Ok(Some((distinct, Int64Array::from(moved))))
}

/// A dictionary whose values were moved to `places`.
fn rebuilt(keys: &dyn Array, places: &Int64Array, values: ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let moved = take(places, keys, None)?;
    let keys = cast(&moved, keys.data_type())?;
    let data = keys.to_data().into_builder().data_type(kind.clone()).add_child_data(values.to_data()).build()?;
    Ok(arrow::array::make_array(data))
}

impl ScalarUDFImpl for OnValues {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, kinds: &[DataType]) -> Result<DataType> {
        let Some(place) = Place::of(kinds) else { return self.inner.return_type(kinds) };
        let mut plain = kinds.to_vec();
        plain[place.at] = place.value.clone();
        Ok(place.result(&self.inner.return_type(&plain)?))
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        let fields: Vec<FieldRef> = kinds.iter().map(|kind| Arc::new(Field::new("argument", kind.clone(), true))).collect();
        let place = Place::of(kinds);
        let plain = place.as_ref().map_or_else(|| fields.clone(), |place| place.plain(&fields));
        let mut wanted: Vec<DataType> =
            fields_with_udf(&plain, self.inner.as_ref())?.iter().map(|field| field.data_type().clone()).collect();
        if let Some(place) = place
            && wanted[place.at].is_string()
        {
            wanted[place.at] = DataType::Dictionary(Box::new(place.key), Box::new(wanted[place.at].clone()));
        }
        Ok(wanted)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let Some(place) = Place::of_fields(args.arg_fields) else { return self.inner.return_field_from_args(args) };
        let (_, field) = self.plain_field(&place, args.arg_fields, args.scalar_arguments)?;
        let kind = place.result(field.data_type());
        Ok(Arc::new(Field::clone(&field).with_data_type(kind)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(place) = Place::of_fields(&args.arg_fields) else { return self.inner.invoke_with_args(args) };
        match &args.args[place.at] {
            ColumnarValue::Array(array) => self.on_array(&place, &args, array).map(ColumnarValue::Array),
            ColumnarValue::Scalar(value) => {
                let value = ColumnarValue::Scalar(undone(value).clone());
                self.call(&place, &args, value, args.number_rows)?.cast_to(args.return_type(), None)
            }
        }
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if self.has_dictionary(&args, info) { Ok(ExprSimplifyResult::Original(args)) } else { self.inner.simplify(args, info) }
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        if self.has_dictionary(args, info) { Ok(PreimageResult::None) } else { self.inner.inner().preimage(args, literal, info) }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[cfg(test)]
mod tests;
