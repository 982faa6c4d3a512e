//! `config …`: the profiles of the settings file.

use forebay_control::config::{Config, Settings, lake_uri};
use serde_json::{Map, Value, json};

use crate::args::{ConfigCommand, ConfigName};
use crate::context::Context;
use crate::error::Result;
use crate::render::table::pairs;

pub fn run(context: &Context, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Get { name, all: true } => {
            debug_assert!(name.is_none(), "clap refuses a name with --all");
            all(context)
        }
        ConfigCommand::Get { name, all: false } => get(context, *name),
        ConfigCommand::Set { name, value } => set(context, *name, value),
    }
}

fn value(settings: &Settings, name: ConfigName) -> &str {
    match name {
        ConfigName::Lake => &settings.lake,
        ConfigName::ActiveBranch => &settings.active_branch,
        ConfigName::AuthorName => &settings.author.name,
        ConfigName::AuthorEmail => &settings.author.email,
    }
}

/// What is in force, wherever it comes from: variables, the file, defaults.
fn get(context: &Context, name: Option<ConfigName>) -> Result<()> {
    let settings = context.settings()?;
    let names = name.map_or(ConfigName::ALL.to_vec(), |name| vec![name]);
    if context.out.is_json() {
        let fields = names.iter().map(|name| (name.as_str().to_owned(), json!(value(&settings, *name))));
        let profile = ("profile".to_owned(), json!(settings.profile));
        return context.out.object(Value::Object(Map::from_iter(std::iter::once(profile).chain(fields))));
    }
    if let Some(name) = name {
        return context.out.data(value(&settings, name));
    }
    let mut lines = vec![("profile", settings.profile.clone())];
    lines.extend(names.iter().map(|name| (name.as_str(), value(&settings, *name).to_owned())));
    context.out.data(&pairs(context.out.data_style, &lines))
}

/// What is written in the file.
fn all(context: &Context) -> Result<()> {
    let config = Config::load(&context.home()?)?;
    let written = |profile: &str| -> Vec<(&'static str, String)> {
        ConfigName::ALL.iter().filter_map(|name| Some((name.as_str(), config.get(profile, name.as_str())?))).collect()
    };
    if context.out.is_json() {
        let profiles = config.profiles().into_iter().map(|profile| {
            let fields = written(&profile).into_iter().map(|(name, value)| (name.to_owned(), json!(value)));
            (profile, Value::Object(fields.collect()))
        });
        return context.out.object(json!({ "file": config.path(), "profiles": Map::from_iter(profiles) }));
    }
    if config.profiles().is_empty() {
        context.out.talk(&format!("`{}` has no profiles", config.path().display()));
    }
    let style = context.out.data_style;
    let block = |profile: String| format!("{}\n{}", style.strong(&format!("[{profile}]")), pairs(style, &written(&profile)));
    context.out.data(config.profiles().into_iter().map(block).collect::<Vec<_>>().join("\n\n").trim_end())
}

fn set(context: &Context, name: ConfigName, value: &str) -> Result<()> {
    let mut config = Config::load(&context.home()?)?;
    let profile = context.profile();
    if value.is_empty() {
        config.unset(&profile, name.as_str())?;
    } else if name == ConfigName::Lake {
        // A path is meant from where the user stands, not from the file's folder.
        config.set(&profile, name.as_str(), &lake_uri(value, std::path::Path::new("."))?)?;
    } else {
        config.set(&profile, name.as_str(), value)?;
    }
    config.save()?;
    let did = if value.is_empty() { "took away" } else { "set" };
    context.out.talk(&format!("{did} `{}` of profile `{profile}` in {}", name.as_str(), config.path().display()));
    if context.out.is_json() {
        let value = config.get(&profile, name.as_str());
        return context.out.object(json!({ "profile": profile, name.as_str(): value }));
    }
    Ok(())
}
