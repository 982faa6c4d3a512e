//! Every mistake the planner can report, one constructor and one code each.
//!
//! Each code has a page in `docs/errors/` and a case in `src/cases/` that provokes it; a test checks both.

use forebay_types::{Fault, Location, Report};

/// Puts reports in the order of the files; those without a place come first.
pub(crate) fn sort(reports: &mut [Report]) {
    reports.sort_by_key(|report| report.at.as_ref().map(|at| (at.file.clone(), at.line, at.column)));
}

/// Adds an optional hint.
pub(crate) fn hinted(report: Report, hint: Option<String>) -> Report {
    match hint {
        Some(hint) => report.with_hint(hint),
        None => report,
    }
}

fn request(code: &str, at: Location, message: String) -> Report {
    Report::new(code, Fault::Request, message).with_location(at)
}

fn usage(code: &str, message: String) -> Report {
    Report::new(code, Fault::Usage, message)
}

pub(crate) fn python_syntax(at: Location, cause: &str) -> Report {
    let message = format!("could not read `{}`: it is not valid Python", at.file);
    request("PLN0001", at, message).with_cause(cause)
}

pub(crate) fn sql_syntax(at: Location, cause: &str) -> Report {
    let message = format!("could not read `{}`: it is not valid SQL", at.file);
    request("PLN0002", at, message).with_cause(cause)
}

pub(crate) fn not_one_select(at: Location, found: &str) -> Report {
    let message = format!("could not use `{}`: it must hold exactly one SELECT, and it holds {found}", at.file);
    request("PLN0003", at, message)
}

pub(crate) fn no_project_file() -> Report {
    usage("PLN0004", "could not find a project file: there is no `forebay.toml` in this folder".to_owned())
        .with_hint("`forebay init` makes a project; `--project-dir` names another folder")
}

pub(crate) fn two_project_files(files: &[&str]) -> Report {
    let files: Vec<String> = files.iter().map(|file| format!("`{file}`")).collect();
    usage("PLN0005", format!("could not choose between the project files {}", files.join(" and ")))
        .with_hint("keep one and remove the others")
}

pub(crate) fn project_file(at: Location, why: impl Into<String>) -> Report {
    usage("PLN0006", format!("could not read the project file `{}`: {}", at.file, why.into())).with_location(at)
}

pub(crate) fn parameter_type(at: Location, parameter: &str, kind: &str) -> Report {
    let report = usage("PLN0007", format!("could not use the type `{kind}` of parameter `{parameter}`")).with_location(at);
    match kind {
        "vault" => report
            .with_cause("Forebay reads no vaults: a secret comes from the machine of who starts the run")
            .with_hint("use the type `secret`, with `from = \"env:NAME\"`, `\"file:PATH\"` or `\"keyring:SERVICE/USER\"`"),
        _ => report.with_hint("the types are `str`, `int`, `float`, `bool` and `secret`"),
    }
}

pub(crate) fn secret_in_text(at: Location, parameter: &str) -> Report {
    request("PLN0038", at, format!("could not use the secret `{parameter}` in a query or a filter"))
        .with_cause("it would be in the plan, in the history of runs and in the metadata of tables")
        .with_hint(format!("take it as an argument of a Python function: `{parameter}=forebay.Parameter(\"{parameter}\")`"))
}

pub(crate) fn secret_in_plain(parameter: &str, at: Location) -> Report {
    usage("PLN0039", format!("could not take a value for the secret `{parameter}` that is not encrypted"))
        .with_location(at)
        .with_hint("say where it is: `from = \"env:NAME\"`, `\"file:PATH\"` or `\"keyring:SERVICE/USER\"` in the project file, or the same behind `--param`")
}

pub(crate) fn no_model(project: &str) -> Report {
    usage(
        "PLN0008",
        format!("could not find a model in project `{project}`: no function has `@forebay.model()` and there is no `.sql` file"),
    )
    .with_hint("models are read from `*.py` and `*.sql` files next to the project file, not from folders below it")
}

pub(crate) fn unknown_word(at: Location, what: &str, name: &str) -> Report {
    request("PLN0009", at, format!("could not understand {what} `{name}`"))
}

pub(crate) fn not_literal(at: Location, what: &str) -> Report {
    request("PLN0010", at, format!("could not read {what}: a literal is wanted here"))
        .with_cause("the project is read without being run, so its settings must be written out")
}

pub(crate) fn bad_value(at: Location, what: &str, why: impl AsRef<str>) -> Report {
    request("PLN0011", at, format!("could not use {what}: {}", why.as_ref()))
}

pub(crate) fn python_version(at: Location, version: &str) -> Report {
    request("PLN0012", at, format!("could not use Python `{version}`"))
        .with_hint("versions `3.9` to `3.14` are supported, written as text: `\"3.11\"`")
}

pub(crate) fn package(at: Location, package: &str, why: &str) -> Report {
    request("PLN0013", at, format!("could not use the package `{package}`: {why}"))
        .with_hint("write an exact version (`\"2.2.0\"`), a prefix (`\"2.0\"`), a range (`\">=2,<3\"`), or `\"\"` for any")
}

pub(crate) fn unreachable_package(at: Location) -> Report {
    request("PLN0013", at, "could not use a requirement that is a URL or a path".to_owned()).with_hint(
        "name a package of an index (`UV_EXTRA_INDEX_URL` adds a private one); code of your own can lie in the project folder",
    )
}

pub(crate) fn unusable_function(at: Location, function: &str, why: &str) -> Report {
    request("PLN0014", at, format!("could not use function `{function}`: {why}"))
}

pub(crate) fn bad_name(at: Location, error: &dyn std::fmt::Display) -> Report {
    request("PLN0015", at, format!("could not use a name: {error}"))
}

pub(crate) fn duplicate_model(name: &str, at: Location, first: &Location) -> Report {
    request("PLN0016", at, format!("could not tell two models apart: `{name}` is defined twice"))
        .with_cause(format!("the first one is at {first}"))
        .with_hint("rename one of them, or give it another `name`")
}

pub(crate) fn cycle(at: Location, path: &[&str]) -> Report {
    let report = request("PLN0017", at, format!("could not order the models: they form a cycle, {}", path.join(" <- ")));
    if path.len() == 2 {
        report.with_hint(
            "a model cannot read the table it makes: give the model another `name`, or read an earlier state with `ref=`",
        )
    } else {
        report
    }
}

pub(crate) fn missing_input(at: Location, input: &str, model: &str) -> Report {
    request("PLN0018", at, format!("could not find the input `{input}` of `{model}`: neither a model nor a table has this name"))
}

pub(crate) fn missing_input_at_ref(at: Location, input: &str, model: &str, reference: &str) -> Report {
    request("PLN0018", at, format!("could not find the input `{input}` of `{model}`: there is no such table at `{reference}`"))
}

pub(crate) fn unknown_column(at: Location, column: &str, of: &str) -> Report {
    request("PLN0019", at, format!("could not find the column `{column}` in `{of}`"))
}

pub(crate) fn filter_syntax(at: Location, filter: &str, cause: &str) -> Report {
    request("PLN0020", at, format!("could not read the filter `{filter}`")).with_cause(cause)
}

pub(crate) fn filter_type(at: Location, filter: &str, of: &str, cause: &str) -> Report {
    request("PLN0021", at, format!("could not use the filter `{filter}` on `{of}`")).with_cause(cause)
}

pub(crate) fn unknown_parameter(at: Option<Location>, name: &str) -> Report {
    let report = Report::new(
        "PLN0022",
        Fault::Usage,
        format!("could not find the parameter `{name}`: the project file does not declare it"),
    );
    match at {
        Some(at) => report.with_location(at),
        None => report,
    }
}

pub(crate) fn missing_parameter(at: Location, name: &str) -> Report {
    usage("PLN0023", format!("could not do without a value for the required parameter `{name}`"))
        .with_location(at)
        .with_hint(format!("give one with `--param {name}=…`"))
}

pub(crate) fn parameter_value(name: &str, value: &str, kind: &str) -> Report {
    usage("PLN0024", format!("could not read the value `{value}` of parameter `{name}` as `{kind}`"))
}

pub(crate) fn materialization(at: Location, model: &str, why: &str) -> Report {
    request("PLN0025", at, format!("could not plan how `{model}` is stored: {why}"))
}

pub(crate) fn expectation_without_input(at: Location, name: &str) -> Report {
    request("PLN0026", at, format!("could not use the expectation `{name}`: it has no table to look at"))
        .with_hint("give it an input: `data=forebay.Model(\"…\")`")
}

pub(crate) fn query(at: Location, cause: &str) -> Report {
    let message = format!("could not plan the query in `{}`", at.file);
    request("PLN0027", at, message).with_cause(cause)
}

pub(crate) fn output_columns(at: Location, model: &str, why: &str) -> Report {
    request("PLN0028", at, format!("could not use the columns `{model}` returns: {why}"))
}

pub(crate) fn dictionary(at: Location, column: &str, of: &str, why: &str) -> Report {
    request("PLN0029", at, format!("could not hand over the column `{column}` of `{of}` as a dictionary: {why}"))
}

/// All codes, for the test that each has a page and a case.
#[cfg(test)]
pub(crate) const CODES: &[&str] = &[
    "PLN0001", "PLN0002", "PLN0003", "PLN0004", "PLN0005", "PLN0006", "PLN0007", "PLN0008", "PLN0009", "PLN0010", "PLN0011",
    "PLN0012", "PLN0013", "PLN0014", "PLN0015", "PLN0016", "PLN0017", "PLN0018", "PLN0019", "PLN0020", "PLN0021", "PLN0022",
    "PLN0023", "PLN0024", "PLN0025", "PLN0026", "PLN0027", "PLN0028", "PLN0029",
];
