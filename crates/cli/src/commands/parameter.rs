//! `parameter …`: the parameters of a project, edited in `forebay.toml` with its comments and layout kept.
//!
//! Invariant: a file that was written is one that the planner reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forebay_plan::physical::Literal;
use forebay_plan::{
    OTHER_PROJECT_FILES, PROJECT_FILE, Parameter, ParameterKind, Project, SecretSource, SourceFile, Sources, project,
};
use serde_json::{Value, json};
use toml_edit::{DocumentMut, Item, Table};

use super::query::read_text;
use crate::args::{ParameterCommand, ParameterSealArgs, ParameterSetArgs, ParameterType};
use crate::context::Context;
use crate::error::{Error, Failure, Result};
use crate::render::table::columns;
use crate::render::text::one_line;
use crate::secrets::Wanted;

pub fn run(context: &Context, command: ParameterCommand) -> Result<()> {
    match command {
        ParameterCommand::Ls(folder) => list(context, &ProjectFile::open(&folder.project_dir)?.read()?),
        ParameterCommand::Set(args) => set(context, args),
        ParameterCommand::Seal(args) => seal(context, &args),
        ParameterCommand::Rm { name, project } => {
            let mut file = ProjectFile::open(&project.project_dir)?;
            file.edit(|document| remove(document, &name))?;
            context.out.talk(&format!("removed the parameter `{name}`"));
            if context.out.is_json() { context.out.object(json!({ "deleted": true })) } else { Ok(()) }
        }
    }
}

fn list(context: &Context, project: &Project) -> Result<()> {
    if context.out.is_json() {
        let parameters: Vec<Value> = project.parameters.iter().map(object).collect();
        return context.out.object(json!({ "parameters": parameters }));
    }
    let row = |parameter: &Parameter| {
        let default = match (&parameter.default, parameter.kind) {
            (Some(default), _) => one_line(&text_of(default)),
            (None, ParameterKind::Secret) => {
                let from = parameter.from.clone().unwrap_or_else(|| SecretSource::default_of(&parameter.name));
                format!("({})", one_line(&from.to_string()))
            }
            (None, _) => String::new(),
        };
        let required = if parameter.required { "yes" } else { "no" };
        let description = one_line(parameter.description.as_deref().unwrap_or_default());
        vec![parameter.name.clone(), parameter.kind.as_str().to_owned(), default, required.to_owned(), description]
    };
    let rows: Vec<Vec<String>> = project.parameters.iter().map(row).collect();
    context.out.data(&columns(context.out.data_style, &["NAME", "TYPE", "DEFAULT", "REQUIRED", "DESCRIPTION"], &[], &rows))
}

fn set(context: &Context, args: ParameterSetArgs) -> Result<()> {
    let value = match &args.file {
        Some(file) => Some(read_text(file)?),
        None => args.value.clone(),
    };
    let mut file = ProjectFile::open(&args.project.project_dir)?;
    file.edit(|document| change(document, &args, value.as_deref()))?;
    let project = file.read()?;
    let parameter = project.parameters.iter().find(|parameter| parameter.name == args.name);
    context.out.talk(&format!("set the parameter `{}`", args.name));
    if context.out.is_json() { context.out.object(json!({ "parameter": parameter.map(object) })) } else { Ok(()) }
}

fn seal(context: &Context, args: &ParameterSealArgs) -> Result<()> {
    let text = read_text(Path::new("-"))?;
    let wrong = |error: serde_json::Error| Error::file("read", "-", &error);
    let mut parameters: BTreeMap<String, String> = serde_json::from_str(&text).map_err(wrong)?;
    let given: Vec<(String, String)> = parameters.clone().into_iter().collect();
    let wanted = Wanted::of_project(&args.project.project_dir, &given)?;
    let sealed = wanted.seal(&mut context.session()?, &mut parameters)?;
    context.out.object(json!({ "parameters": parameters, "secrets": sealed }))
}

fn object(parameter: &Parameter) -> Value {
    let default = parameter.default.as_ref().map_or(Value::Null, |default| match default {
        Literal::Null => Value::Null,
        Literal::Bool(value) => json!(value),
        Literal::Int(value) => json!(value),
        Literal::Float(value) => json!(value),
        Literal::Str(value) => json!(value),
        Literal::Secret(_) => Value::Null,
    });
    json!({
        "name": parameter.name,
        "type": parameter.kind.as_str(),
        "default": default,
        "required": parameter.required,
        "from": parameter.from.as_ref().map(ToString::to_string),
        "description": parameter.description,
    })
}

fn text_of(literal: &Literal) -> String {
    match literal {
        Literal::Null | Literal::Secret(_) => String::new(),
        Literal::Bool(value) => value.to_string(),
        Literal::Int(value) => value.to_string(),
        Literal::Float(value) => value.to_string(),
        Literal::Str(value) => value.clone(),
    }
}

/// The project file of a folder and its text.
struct ProjectFile {
    path: PathBuf,
    name: &'static str,
    text: String,
}

impl ProjectFile {
    fn open(folder: &Path) -> Result<Self> {
        let names = [PROJECT_FILE].into_iter().chain(OTHER_PROJECT_FILES);
        let name = names.into_iter().find(|name| folder.join(name).exists());
        let name = name.ok_or_else(|| Error::NoProject { folder: folder.to_owned() })?;
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| Error::file("read", &path, &error))?;
        Ok(Self { path, name, text })
    }

    fn read(&self) -> Result<Project> {
        parse(self.name, &self.text)
    }

    /// Changes the file, if the planner reads what comes out.
    fn edit(&mut self, change: impl FnOnce(&mut DocumentMut) -> Result<(), ParameterError>) -> Result<()> {
        let fail = |why: &dyn std::fmt::Display, hint: &str| Error::ProjectFile {
            file: self.path.clone(),
            why: why.to_string(),
            hint: hint.to_owned(),
        };
        if self.name != PROJECT_FILE {
            return Err(fail(&"it is not a `forebay.toml`", "edit it by hand").into());
        }
        let mut document: DocumentMut =
            self.text.parse().map_err(|error: toml_edit::TomlError| fail(&error.message(), "mend it first"))?;
        change(&mut document).map_err(|error| error.told(&self.path))?;
        let text = document.to_string();
        parse(self.name, &text)?;
        let write = || {
            let beside = self.path.with_extension(format!("toml.{}.part", std::process::id()));
            std::fs::write(&beside, &text)?;
            std::fs::rename(&beside, &self.path)
        };
        write().map_err(|error| Error::file("write", &self.path, &error))?;
        self.text = text;
        Ok(())
    }
}

fn parse(name: &str, text: &str) -> Result<Project> {
    let file = SourceFile { path: name.to_owned(), text: text.to_owned() };
    project(&Sources { files: vec![file] }).map_err(|reports| Failure::from(forebay_control::api::Error::all(reports)))
}

/// Why a document was not changed; the file's path is not known where it happens.
#[derive(Debug, PartialEq)]
enum ParameterError {
    Unknown { name: String, known: Vec<String> },
    Bad { name: String, why: String },
    NotATable,
}

impl ParameterError {
    fn told(self, path: &Path) -> Error {
        let file = path.to_owned();
        match self {
            Self::Unknown { name, known } => Error::NoParameter { name, file, known },
            Self::Bad { name, why } => Error::BadParameter { name, why },
            Self::NotATable => {
                Error::ProjectFile { file, why: "`parameters` is not a table of tables".into(), hint: "mend it first".into() }
            }
        }
    }
}

fn remove(document: &mut DocumentMut, name: &str) -> Result<(), ParameterError> {
    let Some(parameters) = document.get_mut("parameters").and_then(Item::as_table_like_mut) else {
        return Err(ParameterError::Unknown { name: name.to_owned(), known: Vec::new() });
    };
    if parameters.remove(name).is_none() {
        let known = parameters.iter().map(|(name, _)| name.to_owned()).collect();
        return Err(ParameterError::Unknown { name: name.to_owned(), known });
    }
    Ok(())
}

fn change(document: &mut DocumentMut, args: &ParameterSetArgs, value: Option<&str>) -> Result<(), ParameterError> {
    let bad = |why: &str| ParameterError::Bad { name: args.name.clone(), why: why.to_owned() };
    let mut characters = args.name.chars();
    let is_name =
        characters.next().is_some_and(|c| c.is_alphabetic() || c == '_') && characters.all(|c| c.is_alphanumeric() || c == '_');
    if !is_name {
        return Err(bad("a parameter's name is a Python identifier"));
    }
    let parameters = document.entry("parameters").or_insert_with(|| table(true));
    let parameters = parameters.as_table_like_mut().ok_or(ParameterError::NotATable)?;
    let is_new = parameters.get(&args.name).is_none();
    if is_new && value.is_none() && args.kind.is_none() {
        return Err(bad("a new parameter needs a value or a `--type`"));
    }
    let parameter = parameters.entry(&args.name).or_insert_with(|| table(false));
    let parameter = parameter.as_table_like_mut().ok_or(ParameterError::NotATable)?;
    let old = parameter.get("type").and_then(Item::as_str).and_then(ParameterType::from_word);
    let old = old.or_else(|| parameter.get("default").and_then(kind_of));
    let guess = || value.map_or(ParameterType::Str, guessed);
    let kind = args.kind.or(old).unwrap_or_else(guess);
    if old.is_some_and(|old| old != kind) && value.is_none() && parameter.get("default").is_some() {
        return Err(bad("changing its type needs a new value"));
    }
    put(parameter, "type", kind.as_str().into());
    if let Some(from) = &args.from {
        if kind != ParameterType::Secret {
            return Err(bad("only secrets take a `--from`"));
        }
        if SecretSource::parse(from).is_none() {
            return Err(bad("`--from` is `env:NAME`, `file:PATH` or `keyring:SERVICE/USER`"));
        }
        put(parameter, "from", from.as_str().into());
    }
    if kind == ParameterType::Secret && value.is_some() {
        return Err(bad("a project file is no place for a secret: say where it is with `--from`"));
    }
    if let Some(value) = value {
        let why = format!("`{value}` is not a value of type {}", kind.as_str());
        put(parameter, "default", literal(kind, value).ok_or_else(|| bad(&why))?);
    }
    if args.required {
        put(parameter, "required", true.into());
    } else if args.optional {
        parameter.remove("required");
    }
    if let Some(description) = &args.description {
        put(parameter, "description", description.as_str().into());
    }
    Ok(())
}

fn table(implicit: bool) -> Item {
    let mut table = Table::new();
    table.set_implicit(implicit);
    Item::Table(table)
}

/// Sets a value and keeps the comment behind the old one.
fn put(table: &mut dyn toml_edit::TableLike, key: &str, mut value: toml_edit::Value) {
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    table.insert(key, Item::Value(value));
}

fn kind_of(item: &Item) -> Option<ParameterType> {
    match item.as_value()? {
        toml_edit::Value::Integer(_) => Some(ParameterType::Int),
        toml_edit::Value::Float(_) => Some(ParameterType::Float),
        toml_edit::Value::Boolean(_) => Some(ParameterType::Bool),
        toml_edit::Value::String(_) => Some(ParameterType::Str),
        _ => None,
    }
}

/// The type a value looks like. `1` is a number here, not a truth value.
fn guessed(value: &str) -> ParameterType {
    let is = |kind| literal(kind, value).is_some();
    if is(ParameterType::Int) {
        ParameterType::Int
    } else if is(ParameterType::Float) {
        ParameterType::Float
    } else if matches!(value, "true" | "false") {
        ParameterType::Bool
    } else {
        ParameterType::Str
    }
}

fn literal(kind: ParameterType, text: &str) -> Option<toml_edit::Value> {
    match kind {
        ParameterType::Int => text.trim().parse::<i64>().ok().map(Into::into),
        ParameterType::Float => text.trim().parse::<f64>().ok().filter(|number| number.is_finite()).map(Into::into),
        ParameterType::Bool => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" | "on" => Some(true.into()),
            "false" | "no" | "0" | "off" => Some(false.into()),
            _ => None,
        },
        ParameterType::Str => Some(text.into()),
        ParameterType::Secret => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ProjectFolder;
    use crate::testkit::{context, error_code};

    fn args(name: &str) -> ParameterSetArgs {
        ParameterSetArgs {
            name: name.into(),
            value: None,
            project: ProjectFolder { project_dir: ".".into() },
            kind: None,
            description: None,
            required: false,
            optional: false,
            file: None,
            from: None,
        }
    }

    fn changed(text: &str, args: &ParameterSetArgs, value: Option<&str>) -> Result<String, ParameterError> {
        let mut document: DocumentMut = text.parse().unwrap();
        change(&mut document, args, value).map(|()| document.to_string())
    }

    #[test]
    fn new_parameters_take_the_type_of_their_value() {
        for (value, kind, written) in
            [("3", "int", "3"), ("-0.5", "float", "-0.5"), ("true", "bool", "true"), ("JFK", "str", "\"JFK\"")]
        {
            let text = changed("[project]\nname = \"x\"\n", &args("p"), Some(value)).unwrap();
            assert_eq!(text, format!("[project]\nname = \"x\"\n\n[parameters.p]\ntype = \"{kind}\"\ndefault = {written}\n"));
        }
    }

    #[test]
    fn edits_keep_the_rest() {
        let text = "[project]\nname = \"x\" # mine\n\n[parameters.p] # here\ntype = \"int\"\ndefault = 1 # old\n\n[python]\nversion = \"3.11\"\n";
        let more = ParameterSetArgs { required: true, description: Some("what".into()), ..args("p") };
        let expected = text.replace("default = 1 # old\n", "default = 2 # old\nrequired = true\ndescription = \"what\"\n");
        assert_eq!(changed(text, &more, Some("2")).unwrap(), expected);
        let back = ParameterSetArgs { optional: true, ..args("p") };
        assert!(!changed(&expected, &back, None).unwrap().contains("required"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let text = "[parameters.p]\ntype = \"int\"\ndefault = 1\n";
        let why = |result: Result<String, ParameterError>| match result.unwrap_err() {
            ParameterError::Bad { why, .. } => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(changed(text, &args("p"), Some("x"))), "`x` is not a value of type int");
        let other_type = ParameterSetArgs { kind: Some(ParameterType::Str), ..args("p") };
        assert_eq!(why(changed(text, &other_type, None)), "changing its type needs a new value");
        assert_eq!(why(changed(text, &args("q"), None)), "a new parameter needs a value or a `--type`");
        assert_eq!(why(changed(text, &args("a.b"), Some("1"))), "a parameter's name is a Python identifier");
        let secret = ParameterSetArgs { kind: Some(ParameterType::Secret), ..args("s") };
        assert!(why(changed(text, &secret, Some("hunter2"))).contains("--from"));
        assert!(why(changed(text, &ParameterSetArgs { from: Some("x".into()), ..secret }, None)).contains("keyring:"));
        let from = ParameterSetArgs { from: Some("env:X".into()), ..args("p") };
        assert_eq!(why(changed(text, &from, None)), "only secrets take a `--from`");
        let secret = ParameterSetArgs { kind: Some(ParameterType::Secret), ..ParameterSetArgs { name: "s".into(), ..from } };
        assert!(changed(text, &secret, None).unwrap().ends_with("[parameters.s]\ntype = \"secret\"\nfrom = \"env:X\"\n"));
        let mut document: DocumentMut = text.parse().unwrap();
        let unknown = remove(&mut document, "q").unwrap_err();
        assert_eq!(unknown, ParameterError::Unknown { name: "q".into(), known: vec!["p".into()] });
        assert_eq!(changed("parameters = 3\n", &args("p"), Some("1")), Err(ParameterError::NotATable));
    }

    #[test]
    fn files_are_found_and_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let project_dir = folder.path().to_owned();
        let ls =
            |project_dir: &Path| run(&context(), ParameterCommand::Ls(ProjectFolder { project_dir: project_dir.to_owned() }));
        assert_eq!(error_code(ls(&project_dir)), "CLI0002");
        let path = project_dir.join(PROJECT_FILE);
        std::fs::write(&path, "[project]\nname = \"x\"\n").unwrap();
        let set = ParameterSetArgs { project: ProjectFolder { project_dir: project_dir.clone() }, ..args("p") };
        run(&context(), ParameterCommand::Set(ParameterSetArgs { value: Some("7".into()), ..set })).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("[parameters.p]\ntype = \"int\"\ndefault = 7\n"));
        ls(&project_dir).unwrap();
        let rm = |name: &str| {
            let project = ProjectFolder { project_dir: project_dir.clone() };
            run(&context(), ParameterCommand::Rm { name: name.into(), project })
        };
        assert_eq!(error_code(rm("q")), "CLI0004");
        rm("p").unwrap();
        std::fs::write(&path, "[project\n").unwrap();
        assert_eq!(error_code(rm("p")), "CLI0003");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(project_dir.join("bauplan_project.yml"), "project:\n  name: x\n").unwrap();
        assert_eq!(error_code(rm("p")), "CLI0003");
    }

    #[test]
    fn a_bad_value_is_told_with_its_code() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PROJECT_FILE), "[project]\nname = \"x\"\n").unwrap();
        let project = ProjectFolder { project_dir: folder.path().to_owned() };
        let set = ParameterSetArgs { kind: Some(ParameterType::Bool), value: Some("maybe".into()), project, ..args("p") };
        assert_eq!(error_code(run(&context(), ParameterCommand::Set(set))), "CLI0005");
    }
}
