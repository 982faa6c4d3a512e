//! Reads a Python file without running it: imports, decorated functions, their inputs.
//!
//! Only functions at the top level of the file count. A name means what the file's imports say:
//! `import forebay as fb`, `from forebay import model, Model as M`, and the same of `bauplan`.

use std::collections::HashMap;

use forebay_types::{Location, Report};
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{Expr, ParameterWithDefault, Stmt, StmtFunctionDef};
use ruff_text_size::{Ranged, TextRange};

use crate::decorators;
use crate::errors;
use crate::physical::{Argument, ArgumentValue, Returns, TableForm};
use crate::settings::{Body, Declaration, DeclaredArgument, DeclaredInput, PythonBody, Settings, Spanned};
use crate::suggest;
use crate::text::Text;

/// The module whose decorators count, and another one read as if it were ours.
const MODULES: [&str; 2] = ["forebay", "bauplan"];
/// What a file may use of the module in decorators and inputs.
const WORDS: [&str; 6] = ["model", "expectation", "python", "resources", "Model", "Parameter"];

/// What one file declares.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) declarations: Vec<Declaration>,
    pub(crate) reports: Vec<Report>,
    pub(crate) warnings: Vec<String>,
}

/// Reads a file.
pub(crate) fn read(text: &Text<'_>) -> Read {
    let parsed = match ruff_python_parser::parse_module(text.text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let report = errors::python_syntax(text.location(error.location.start().to_usize()), &error.error.to_string());
            return Read { reports: vec![report], ..Read::default() };
        }
    };
    let mut imports = Imports::default();
    imports.collect(parsed.suite());
    let mut reader = Reader { text, imports, out: Read::default() };
    for statement in parsed.suite() {
        if let Stmt::FunctionDef(function) = statement {
            reader.function(function);
        }
    }
    reader.out
}

/// What the names of a file stand for, as dotted paths: `pd` is `pandas`, `M` is `forebay.Model`.
#[derive(Debug, Default)]
struct Imports {
    names: HashMap<String, String>,
}

impl Imports {
    /// Imports at the top level, also those below `if` and `try`.
    fn collect(&mut self, body: &[Stmt]) {
        for statement in body {
            match statement {
                Stmt::Import(import) => {
                    for alias in &import.names {
                        let path = alias.name.as_str();
                        let root = path.split('.').next().unwrap_or(path);
                        match &alias.asname {
                            Some(name) => self.bind(name.as_str(), path.to_owned()),
                            None => self.bind(root, root.to_owned()),
                        }
                    }
                }
                Stmt::ImportFrom(import) if import.level == 0 => {
                    let module = import.module.as_ref().map_or("", |module| module.as_str());
                    for alias in &import.names {
                        let name = alias.name.as_str();
                        if name == "*" && MODULES.contains(&module) {
                            for word in WORDS {
                                self.bind(word, format!("{module}.{word}"));
                            }
                        } else {
                            let bound = alias.asname.as_ref().map_or(name, |name| name.as_str());
                            self.bind(bound, format!("{module}.{name}"));
                        }
                    }
                }
                Stmt::If(branch) => {
                    self.collect(&branch.body);
                    branch.elif_else_clauses.iter().for_each(|clause| self.collect(&clause.body));
                }
                Stmt::Try(attempt) => {
                    self.collect(&attempt.body);
                    self.collect(&attempt.orelse);
                    self.collect(&attempt.finalbody);
                }
                _ => {}
            }
        }
    }

    fn bind(&mut self, name: &str, path: String) {
        self.names.insert(name.to_owned(), path);
    }

    /// The dotted path an expression like `fb.Model` stands for.
    fn resolve(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Name(name) => self.names.get(name.id.as_str()).cloned(),
            Expr::Attribute(attribute) => Some(format!("{}.{}", self.resolve(&attribute.value)?, attribute.attr.as_str())),
            _ => None,
        }
    }

    /// As [`Imports::resolve`], but names nothing imports count as the packages they usually abbreviate (annotations are often text).
    fn resolve_annotation(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Name(name) => self.names.get(name.id.as_str()).cloned().or_else(|| {
                let package = match name.id.as_str() {
                    "pa" | "pyarrow" => "pyarrow",
                    "pd" | "pandas" => "pandas",
                    "pl" | "polars" => "polars",
                    "duckdb" => "duckdb",
                    "Annotated" => "typing.Annotated",
                    _ => return None,
                };
                Some(package.to_owned())
            }),
            Expr::Attribute(attribute) => {
                Some(format!("{}.{}", self.resolve_annotation(&attribute.value)?, attribute.attr.as_str()))
            }
            _ => None,
        }
    }

    /// `Model` if the expression stands for `forebay.Model`.
    fn word(&self, expression: &Expr) -> Option<String> {
        let path = self.resolve(expression)?;
        let (module, word) = path.split_once('.')?;
        MODULES.contains(&module).then(|| word.to_owned())
    }
}

/// Reads the functions of one file and collects what is wrong.
pub(crate) struct Reader<'a> {
    text: &'a Text<'a>,
    imports: Imports,
    pub(crate) out: Read,
}

/// The decorators of one function, read.
#[derive(Debug, Default)]
pub(crate) struct Decorated {
    pub(crate) model: Option<TextRange>,
    pub(crate) expectation: Option<TextRange>,
    pub(crate) environment: Option<TextRange>,
    pub(crate) settings: Settings,
    pub(crate) python: Option<String>,
    pub(crate) packages: Vec<(String, String)>,
}

impl Reader<'_> {
    /// The place of a node.
    pub(crate) fn at(&self, range: TextRange) -> Location {
        self.text.location(range.start().to_usize())
    }

    /// The text of a node.
    pub(crate) fn source(&self, range: TextRange) -> &str {
        &self.text.text[range]
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.out.reports.push(report);
    }

    pub(crate) fn warn(&mut self, at: TextRange, message: &str) {
        let at = self.at(at);
        self.out.warnings.push(format!("{at}: {message}"));
    }

    fn function(&mut self, function: &StmtFunctionDef) {
        let mut decorated = Decorated::default();
        for decorator in &function.decorator_list {
            let (callee, arguments) = match &decorator.expression {
                Expr::Call(call) => (&*call.func, Some(&call.arguments)),
                bare => (bare, None),
            };
            if let Some(word) = self.imports.word(callee) {
                decorators::read(self, &mut decorated, &word, callee.range(), arguments);
            }
        }
        let name_at = function.name.range();
        let returns = match (decorated.model, decorated.expectation) {
            (None, None) => {
                if let Some(range) = decorated.environment {
                    let report = errors::unusable_function(
                        self.at(range),
                        function.name.as_str(),
                        "it is neither a model nor an expectation",
                    );
                    self.report(report.with_hint("add `@forebay.model()`"));
                }
                return;
            }
            (Some(_), Some(second)) => {
                let why = "it cannot be a model and an expectation at once";
                self.report(errors::unusable_function(self.at(second), function.name.as_str(), why));
                return;
            }
            (Some(_), None) => Returns::Table,
            (None, Some(_)) => Returns::Truth,
        };
        if let Some(why) = unusable(function) {
            self.report(errors::unusable_function(self.at(name_at), function.name.as_str(), why));
        }
        let (arguments, inputs) = self.arguments(function);
        if returns == Returns::Truth && inputs.is_empty() {
            self.report(errors::expectation_without_input(self.at(name_at), function.name.as_str()));
        }
        let at = self.at(name_at);
        let name =
            decorated.settings.name.clone().unwrap_or_else(|| Spanned { value: function.name.to_string(), at: at.clone() });
        let body = PythonBody {
            file: self.text.path.to_owned(),
            function: function.name.to_string(),
            arguments,
            returns,
            python: decorated.python,
            packages: decorated.packages,
        };
        let comment = docstring(function);
        self.out.declarations.push(Declaration {
            name,
            body: Body::Python(body),
            inputs,
            settings: decorated.settings,
            comment,
            at,
        });
    }

    fn arguments(&mut self, function: &StmtFunctionDef) -> (Vec<DeclaredArgument>, Vec<DeclaredInput>) {
        let (mut arguments, mut inputs) = (Vec::new(), Vec::new());
        let parameters = &function.parameters;
        if let Some(first) = parameters.posonlyargs.first() {
            let report = errors::unusable_function(
                self.at(first.range()),
                function.name.as_str(),
                "it has positional-only arguments, and inputs are passed by name",
            );
            self.report(report.with_hint("remove the `/`"));
        }
        for parameter in parameters.args.iter().chain(&parameters.kwonlyargs) {
            self.argument(function, parameter, &mut arguments, &mut inputs);
        }
        (arguments, inputs)
    }

    fn argument(
        &mut self,
        function: &StmtFunctionDef,
        parameter: &ParameterWithDefault,
        arguments: &mut Vec<DeclaredArgument>,
        inputs: &mut Vec<DeclaredInput>,
    ) {
        let name = parameter.name().as_str();
        let text = parameter.parameter.annotation.as_deref().and_then(parsed_annotation);
        let annotation = text.as_ref().or(parameter.parameter.annotation.as_deref());
        let (table_annotation, annotated) = match annotation.and_then(|annotation| self.annotated(annotation)) {
            Some((first, call)) => (Some(first), call),
            None => (annotation, None),
        };
        let from_text = text.is_some();
        let Some(source) = annotated.or(parameter.default.as_deref()) else {
            let report = errors::unusable_function(
                self.at(parameter.name().range()),
                function.name.as_str(),
                &format!("its argument `{name}` has no source"),
            );
            self.report(report.with_hint(format!(
                "write `{name}=forebay.Model(\"…\")` for a table or `{name}=forebay.Parameter(\"…\")` for a parameter"
            )));
            return;
        };
        if from_text && annotated.is_some() {
            // Offsets inside a quoted annotation are not places of the file.
            let report = errors::not_literal(self.at(parameter.name().range()), &format!("the input `{name}`"));
            self.report(report.with_hint("write the annotation without quotes"));
            return;
        }
        let (callee, call) = match source {
            Expr::Call(call) => (&*call.func, Some(&call.arguments)),
            other => (other, None),
        };
        match self.imports.word(callee).as_deref() {
            Some("Model") => {
                let form = self.form(table_annotation, parameter, from_text);
                let input = decorators::model_input(self, name, source.range(), call);
                inputs.extend(input);
                arguments.push(DeclaredArgument::Final(Argument { name: name.to_owned(), value: ArgumentValue::Table(form) }));
            }
            Some("Parameter") => {
                if let Some(parameter) = decorators::parameter_input(self, source.range(), call) {
                    arguments.push(DeclaredArgument::Parameter { argument: name.to_owned(), parameter });
                }
            }
            Some(word) => {
                let report = errors::unknown_word(self.at(callee.range()), "the input", &format!("forebay.{word}"));
                self.report(errors::hinted(report, suggest::hint_or_list(word, "inputs are", ["Model", "Parameter"])));
            }
            // An ordinary default: Python fills it in.
            None => {}
        }
    }

    /// `Annotated[T, forebay.Model(…)]` as `T` and the call, if it is one.
    fn annotated<'e>(&self, annotation: &'e Expr) -> Option<(&'e Expr, Option<&'e Expr>)> {
        let Expr::Subscript(subscript) = annotation else { return None };
        let path = self.imports.resolve_annotation(&subscript.value)?;
        if path != "typing.Annotated" && path != "typing_extensions.Annotated" {
            return None;
        }
        let Expr::Tuple(parts) = &*subscript.slice else { return None };
        let (first, rest) = parts.elts.split_first()?;
        let ours = rest.iter().find(|part| {
            let callee = if let Expr::Call(call) = part { &call.func } else { *part };
            self.imports.word(callee).is_some()
        });
        Some((first, ours))
    }

    /// The form an annotation asks for.
    fn form(&mut self, annotation: Option<&Expr>, parameter: &ParameterWithDefault, from_text: bool) -> TableForm {
        let Some(annotation) = annotation else { return TableForm::PyArrow };
        if let Expr::StringLiteral(_) = annotation
            && let Some(parsed) = parsed_annotation(annotation)
        {
            return self.form(Some(&parsed), parameter, true);
        }
        let Some(path) = self.imports.resolve_annotation(annotation) else { return TableForm::PyArrow };
        let (package, class) = (path.split('.').next().unwrap_or(""), path.rsplit('.').next().unwrap_or(""));
        match (package, class) {
            ("pyarrow", "Table") => TableForm::PyArrow,
            ("pyarrow", "RecordBatchReader") => TableForm::RecordBatchReader,
            ("pandas", "DataFrame") => TableForm::Pandas,
            ("polars", "DataFrame") => TableForm::Polars,
            ("polars", "LazyFrame") => TableForm::PolarsLazy,
            ("duckdb", "DuckDBPyRelation") => TableForm::DuckDb,
            ("pyarrow" | "pandas" | "polars" | "duckdb", _) => {
                let range = if from_text { parameter.name().range() } else { annotation.range() };
                let report = errors::bad_value(
                    self.at(range),
                    &format!("the annotation `{path}`"),
                    "a table cannot be handed over in this form",
                );
                self.report(report.with_hint("use `pyarrow.Table`, `pyarrow.RecordBatchReader`, `pandas.DataFrame`, `polars.DataFrame`, `polars.LazyFrame` or `duckdb.DuckDBPyRelation`"));
                TableForm::PyArrow
            }
            _ => TableForm::PyArrow,
        }
    }
}

/// The expression inside a quoted annotation.
fn parsed_annotation(annotation: &Expr) -> Option<Expr> {
    let Expr::StringLiteral(literal) = annotation else { return None };
    ruff_python_parser::parse_expression(literal.value.to_str()).ok().map(|parsed| parsed.into_expr())
}

/// Why a decorated function cannot be called for one table.
fn unusable(function: &StmtFunctionDef) -> Option<&'static str> {
    if function.is_async {
        return Some("it is `async`");
    }
    let mut finder = YieldFinder { found: false };
    visitor::walk_body(&mut finder, &function.body);
    finder.found.then_some("it is a generator (it has a `yield`)")
}

/// Looks for `yield` in a function, not in functions inside it.
struct YieldFinder {
    found: bool,
}

impl<'a> Visitor<'a> for YieldFinder {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if !matches!(statement, Stmt::FunctionDef(_) | Stmt::ClassDef(_)) {
            visitor::walk_stmt(self, statement);
        }
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        match expression {
            Expr::Yield(_) | Expr::YieldFrom(_) => self.found = true,
            Expr::Lambda(_) => {}
            _ => visitor::walk_expr(self, expression),
        }
    }
}

/// The docstring, its common indentation removed.
fn docstring(function: &StmtFunctionDef) -> Option<String> {
    let Stmt::Expr(first) = function.body.first()? else { return None };
    let Expr::StringLiteral(literal) = &*first.value else { return None };
    let text = literal.value.to_str();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let common = text.lines().skip(1).filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
    let mut lines = text.lines();
    let mut out = lines.next().unwrap_or("").trim().to_owned();
    for line in lines {
        out.push('\n');
        out.push_str(line.get(common..).unwrap_or("").trim_end());
    }
    let out = out.trim().to_owned();
    (!out.is_empty()).then_some(out)
}
