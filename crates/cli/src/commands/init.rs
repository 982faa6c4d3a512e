//! `init`: a small project that runs on an empty lake. What is there already is left alone.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use forebay_plan::{OTHER_PROJECT_FILES, PROJECT_FILE};
use serde_json::json;

use crate::args::InitArgs;
use crate::context::Context;
use crate::error::{Error, Result};

const PROJECT_TEMPLATE: &str = include_str!("init/forebay.toml");
const MODELS_TEMPLATE: &str = include_str!("init/models.py");
const MODELS_FILE: &str = "models.py";

pub fn run(context: &Context, args: &InitArgs) -> Result<()> {
    let folder = &args.path;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => folder_name(folder)?,
    };
    let found = [PROJECT_FILE].into_iter().chain(OTHER_PROJECT_FILES).find(|file| folder.join(file).exists());
    if let Some(found) = found {
        return Err(Error::ProjectExists { folder: folder.clone(), found: found.to_owned() }.into());
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::file("create", folder, &error))?;
    let mut made = Vec::new();
    // The project file comes last: a folder with one is a whole project.
    for (file, text) in [(MODELS_FILE, MODELS_TEMPLATE.to_owned()), (PROJECT_FILE, project_file(&name))] {
        let path = folder.join(file);
        if create(&path, &text).map_err(|error| Error::file("write", &path, &error))? {
            made.push(path);
        } else {
            context.out.talk(&format!("left {} as it is", path.display()));
        }
    }
    for path in &made {
        context.out.talk(&format!("made {}", path.display()));
    }
    let place = if folder == Path::new(".") { String::new() } else { format!(" -p {}", folder.display()) };
    context.out.talk(&format!("\nrun it with `forebay run{place}`"));
    if context.out.is_json() { context.out.object(json!({ "name": name, "folder": folder, "files": made })) } else { Ok(()) }
}

/// The folder's own name, also for `.`.
fn folder_name(folder: &Path) -> Result<String> {
    let absolute = std::path::absolute(folder).map_err(|error| Error::file("find", folder, &error))?;
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(name.unwrap_or_else(|| "project".to_owned()))
}

fn project_file(name: &str) -> String {
    PROJECT_TEMPLATE.replace("\"@name@\"", &toml_edit::Value::from(name).to_string())
}

/// Writes a new file; `false` if there is one.
fn create(path: &Path, text: &str) -> std::io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{context, error_code};

    fn init(folder: &Path, name: Option<&str>) -> Result<()> {
        run(&context(), &InitArgs { path: folder.to_owned(), name: name.map(str::to_owned) })
    }

    #[test]
    fn a_new_folder_becomes_a_project() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("my \"project\"");
        init(&folder, None).unwrap();
        let text = std::fs::read_to_string(folder.join(PROJECT_FILE)).unwrap();
        assert!(!text.contains('@'), "{text}");
        let document: toml_edit::DocumentMut = text.parse().unwrap();
        assert_eq!(document["project"]["name"].as_str(), Some("my \"project\""));
        assert!(folder.join(MODELS_FILE).is_file());
    }

    #[test]
    fn nothing_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(MODELS_FILE), "mine").unwrap();
        init(root.path(), Some("x")).unwrap();
        assert_eq!(std::fs::read_to_string(root.path().join(MODELS_FILE)).unwrap(), "mine");
        assert_eq!(error_code(init(root.path(), Some("y"))), "CLI0001");
        assert!(std::fs::read_to_string(root.path().join(PROJECT_FILE)).unwrap().contains("\"x\""));
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("bauplan_project.yml"), "").unwrap();
        assert_eq!(error_code(init(other.path(), None)), "CLI0001");
        assert!(!other.path().join(MODELS_FILE).exists());
    }
}
