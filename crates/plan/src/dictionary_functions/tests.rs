//! The same query over a dictionary column and over a plain one, which DataFusion's own functions serve.

use arrow::array::{DictionaryArray, RecordBatch};
use arrow::datatypes::{Int32Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use proptest::prelude::*;

use super::*;
use crate::sql;

/// Batches with a dictionary each: `s` is plain, `d` the same as dictionary, `n` counts.
fn table(rows: &[Vec<Option<String>>]) -> (Arc<Schema>, Vec<RecordBatch>) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("s", DataType::Utf8, true),
        Field::new("d", crate::dictionary_type(), true),
    ]));
    let batch = |rows: &Vec<Option<String>>| {
        let numbers = Int64Array::from_iter_values(0..rows.len() as i64);
        let plain: StringArray = rows.iter().map(Option::as_deref).collect();
        // A value no row has: it must not show.
        let mut values: Vec<&str> = vec!["(unused)"];
        let keys: Vec<Option<i32>> = rows
            .iter()
            .map(|row| {
                let row = row.as_deref()?;
                let known = values.iter().skip(1).position(|value| *value == row).map(|place| place + 1);
                Some(known.unwrap_or_else(|| {
                    values.push(row);
                    values.len() - 1
                }) as i32)
            })
            .collect();
        let dictionary = DictionaryArray::<Int32Type>::new(keys.into(), Arc::new(StringArray::from(values)));
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers), Arc::new(plain), Arc::new(dictionary)])
            .expect("a batch")
    };
    (Arc::clone(&schema), rows.iter().map(batch).collect())
}

/// The rows of a query as text, and the types of its columns.
fn rows(query: &str, table: &(Arc<Schema>, Vec<RecordBatch>)) -> Result<(Vec<String>, Vec<DataType>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let context = sql::session_context(sql::session_config().with_target_partitions(1));
        sql::register(&context, "t", Arc::new(MemTable::try_new(Arc::clone(&table.0), vec![table.1.clone()])?))?;
        let frame = context.sql(query).await?;
        let planned: Vec<DataType> = frame.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        let mut out = Vec::new();
        for batch in frame.collect().await? {
            let made: Vec<DataType> = batch.columns().iter().map(|column| column.data_type().clone()).collect();
            assert_eq!(planned, made, "{query}");
            let options = FormatOptions::default().with_null("∅");
            let columns: Vec<ArrayFormatter<'_>> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
            out.extend(
                (0..batch.num_rows())
                    .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|")),
            );
        }
        Ok((out, planned))
    })
}

fn words(list: &[Option<&str>]) -> Vec<Option<String>> {
    list.iter().map(|word| word.map(str::to_owned)).collect()
}

/// Calls of every wrapped function, and whether the result is text.
const CALLS: [(&str, bool); 48] = [
    ("ascii(x)", false),
    ("bit_length(x)", false),
    ("btrim(x)", true),
    ("trim(x)", true),
    ("trim(BOTH 'a' FROM x)", true),
    ("btrim(x, 'ae')", true),
    ("character_length(x)", false),
    ("char_length(x)", false),
    ("length(x)", false),
    ("contains(x, 'e')", false),
    ("ends_with(x, 'e')", false),
    ("initcap(x)", true),
    ("left(x, 2)", true),
    ("left(x, -1)", true),
    ("left(x, 1 + 1)", true),
    ("lower(x)", true),
    ("lpad(x, 4, '.')", true),
    ("ltrim(x)", true),
    ("md5(x)", true),
    ("octet_length(x)", false),
    ("overlay(x PLACING 'Z' FROM 1 FOR 1)", true),
    ("regexp_like(x, '^a')", false),
    ("regexp_replace(x, '[ae]', '-', 'g')", true),
    ("replace(x, 'a', 'b')", true),
    ("replace(x, 'a', NULL)", true),
    ("reverse(x)", true),
    ("right(x, 1)", true),
    ("rpad(x, 3)", true),
    ("rtrim(x)", true),
    ("sha224(x)", false),
    ("sha256(x)", false),
    ("sha384(x)", false),
    ("sha512(x)", false),
    ("split_part(x, ' ', 2)", true),
    ("starts_with(x, 'a')", false),
    ("strpos(x, 'e')", false),
    ("position('e' IN x)", false),
    ("substr(x, 2)", true),
    ("substr(x, 1, 2)", true),
    ("substring(x FROM 2 FOR 1)", true),
    ("substr(x, 2 - 1, length('ab'))", true),
    ("translate(x, 'ae', 'ea')", true),
    ("upper(x)", true),
    ("upper(lower(trim(x)))", true),
    ("left(x, n % 3)", true),
    ("replace(x, x, 'same')", false),
    ("concat(x, '!')", false),
    ("coalesce(upper(x), 'none')", true),
];

#[test]
fn every_function_gives_what_it_gives_for_plain_text() {
    let table = table(&[
        words(&[Some("ape"), None, Some("Ape"), Some(" bee "), Some(""), Some("ape"), Some("ünï ae"), Some("ape")]),
        words(&[Some("solo")]),
        words(&[None, None]),
    ]);
    for (call, text) in CALLS {
        let of = |column: &str| {
            rows(
                &format!("SELECT {} AS r FROM t", call.replace("(x", &format!("({column}")).replace(" x", &format!(" {column}"))),
                &table,
            )
        };
        let (plain, _) = of("s").unwrap_or_else(|error| panic!("{call}: {error}"));
        let (found, kinds) = of("d").unwrap_or_else(|error| panic!("{call}: {error}"));
        assert_eq!(found, plain, "{call}");
        assert_eq!(matches!(kinds[0], DataType::Dictionary(..)), text, "{call} gives {:?}", kinds[0]);
    }
}

#[test]
fn every_wrapped_function_exists_and_is_called_above() {
    let state = sql::session_context(sql::session_config()).state();
    assert_eq!(wrapped(&state).len(), FUNCTIONS.len());
    for name in FUNCTIONS {
        assert!(CALLS.iter().any(|(call, _)| call.starts_with(&format!("{name}("))), "{name}");
        assert!(state.scalar_functions()[name].inner().is::<OnValues>(), "{name}");
    }
}

#[test]
fn keys_are_shared_where_values_stay_apart() {
    let (schema, batches) = table(&[words(&[Some("a"), Some("b"), Some("a"), Some("b"), None])]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let out = runtime.block_on(async {
        let context = sql::session_context(sql::session_config().with_target_partitions(1));
        sql::register(&context, "t", Arc::new(MemTable::try_new(schema, vec![batches.clone()])?))?;
        context.sql("SELECT upper(d) AS u FROM t").await?.collect().await
    });
    let out = out.expect("it runs");
    let keys = |array: &ArrayRef| array.as_dictionary::<Int32Type>().keys().values().inner().as_ptr();
    assert_eq!(keys(out[0].column(0)), keys(batches[0].column(2)));
}

#[test]
fn a_tidy_dictionary_has_distinct_values_that_are_used() {
    let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), Some("a")]));
    let repeated: ArrayRef =
        Arc::new(DictionaryArray::<Int32Type>::new(vec![Some(3), Some(2), None, Some(1), Some(0)].into(), values));
    let tidy = tidy_dictionary(&repeated).expect("it can be rebuilt");
    assert_eq!(tidy.as_any_dictionary().values().as_string::<i32>(), &StringArray::from(vec!["a", "b"]));
    assert_eq!(tidy.data_type(), repeated.data_type());
    let plain = |array: &ArrayRef| cast(array, &DataType::Utf8).expect("strings");
    assert_eq!(&plain(&tidy), &plain(&repeated));
    assert_eq!(&tidy_dictionary(&repeated.slice(1, 2)).expect("it can be rebuilt").as_any_dictionary().values().len(), &1);
    let same = tidy_dictionary(&tidy).expect("it stays");
    assert!(Arc::ptr_eq(same.as_any_dictionary().values(), tidy.as_any_dictionary().values()));
}

fn queries() -> impl Strategy<Value = String> {
    let condition = prop_oneof![
        Just("{} = 'ape'"),
        Just("'Bee' < {}"),
        Just("{} <> 'ape'"),
        Just("{} IN ('ape', 'c', '')"),
        Just("{} NOT IN ('ape')"),
        Just("{} LIKE 'a%'"),
        Just("{} ILIKE '%E%'"),
        Just("{} IS NULL"),
        Just("{} BETWEEN 'a' AND 'c'"),
        Just("upper({}) = 'APE'"),
        Just("length({}) > 2"),
        Just("starts_with({}, 'a')"),
        Just("{} = s"),
        Just("{} = lower(s)"),
        Just("coalesce({}, 'x') = 'x'"),
        Just("CASE WHEN n > 3 THEN {} ELSE 'ape' END = 'ape'"),
        Just("1 = 1"),
    ];
    let template = prop_oneof![
        Just("SELECT n, {} AS r FROM t WHERE ? ORDER BY n, r"),
        Just("SELECT {} AS r, count(*) AS c FROM t WHERE ? GROUP BY {} ORDER BY r, c"),
        Just("SELECT upper({}) AS r, sum(n) AS c FROM t WHERE ? GROUP BY 1 ORDER BY r, c"),
        Just("SELECT DISTINCT {} AS r FROM t WHERE ? ORDER BY r"),
        Just("SELECT {} AS r, n FROM t WHERE ? ORDER BY r DESC NULLS LAST, n"),
        Just("SELECT min({}) AS lo, max({}) AS hi, count({}) AS c FROM t WHERE ?"),
        Just("SELECT a.n, b.n AS m FROM t AS a JOIN (SELECT n, {} AS k FROM t WHERE ?) AS b ON a.s = b.k ORDER BY 1, 2"),
        Just(
            "SELECT a.n, b.n AS m FROM (SELECT n, {} AS k FROM t) AS a LEFT JOIN (SELECT n, {} AS k FROM t WHERE ?) AS b ON a.k = b.k ORDER BY 1, 2"
        ),
        Just("SELECT {} AS r FROM t WHERE ? UNION ALL SELECT s FROM t ORDER BY r"),
        Just("SELECT n, row_number() OVER (PARTITION BY {} ORDER BY n) AS r FROM t WHERE ? ORDER BY 1, 2"),
        Just("SELECT n FROM t WHERE ? AND {} IN (SELECT upper({}) FROM t) ORDER BY n"),
    ];
    (template, condition).prop_map(|(template, condition)| template.replace('?', condition))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// The naive model: the same query on the plain column.
    #[test]
    fn a_dictionary_changes_no_result(
        query in queries(),
        batches in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0_usize..6), 1..12), 1..4),
    ) {
        let word = |index: Option<usize>| index.map(|index| ["ape", "APE", "Bee", "c", "", "ape "][index].to_owned());
        let batches: Vec<Vec<Option<String>>> = batches.into_iter().map(|rows| rows.into_iter().map(word).collect()).collect();
        let table = table(&batches);
        let plain = rows(&query.replace("{}", "s"), &table);
        let found = rows(&query.replace("{}", "d"), &table);
        prop_assert!(plain.is_ok(), "{query}: {plain:?}");
        prop_assert!(found.is_ok(), "{query}: {found:?}");
        prop_assert_eq!(found.expect("checked").0, plain.expect("checked").0, "{}", query);
    }
}
