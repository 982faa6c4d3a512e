//! The command line is what its help, its examples and the guide say it is.
//!
//! Help texts are kept in `src/snapshots/help/`, one file a command; `FOREBAY_UPDATE_SNAPSHOTS=1` writes them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::*;

const HELP_WIDTH: usize = 100;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words(line))
}

/// Splits a line as a shell does: blanks, quotes, and a backslash before a character.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            // What follows is the shell's: a pipe, a file, a comment.
            (None, '|' | '>' | '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Every command with its path: `["forebay", "branch", "ls"]`.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(path: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
        all.push((path.to_vec(), command.clone()));
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            walk(&[path, &[child.get_name().to_owned()]].concat(), child, all);
        }
    }
    let mut root = Cli::command().term_width(HELP_WIDTH);
    root.build();
    let mut all = Vec::new();
    walk(&["forebay".to_owned()], &root, &mut all);
    all
}

fn folder(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(inside)
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_texts() {
    let folder = folder("src/snapshots/help");
    let update = std::env::var_os("FOREBAY_UPDATE_SNAPSHOTS").is_some();
    let mut wanted = BTreeMap::new();
    for (path, mut command) in commands() {
        let text = command.render_long_help().to_string();
        let text: String = text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
        wanted.insert(format!("{}.txt", path.join("-")), text);
    }
    if update {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in &wanted {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let kept = std::fs::read_dir(&folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
    });
    let kept: BTreeMap<String, String> = kept.collect();
    assert_eq!(kept.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "FOREBAY_UPDATE_SNAPSHOTS=1 writes them anew");
    for (name, text) in wanted {
        assert_eq!(kept[&name], text, "{name} has changed; FOREBAY_UPDATE_SNAPSHOTS=1 writes it anew");
    }
}

#[test]
fn every_command_that_does_something_has_examples_and_they_parse() {
    let mut count = 0;
    for (path, command) in commands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> = help.lines().map(str::trim).filter(|line| line.starts_with("forebay ")).collect();
        assert!(command.has_subcommands() || !examples.is_empty(), "`{}` has no example", path.join(" "));
        for example in examples {
            if let Err(error) = parse(example) {
                panic!("{example}\n{error}");
            }
            assert!(path.len() == 1 || words(example).contains(&path[path.len() - 1]), "{}: {example}", path.join(" "));
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn command_lines_of_the_documentation_parse() {
    let root = folder("../..");
    let mut files = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs/guide"), root.join("docs/errors")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                files.push(path);
            }
        }
    }
    let mut count = 0;
    for file in files {
        for line in console_lines(&std::fs::read_to_string(&file).unwrap()) {
            if let Err(error) = parse(&line) {
                assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{}: {line}\n{error}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// The `$ forebay …` lines of ```console blocks; a line that ends in a backslash goes on.
fn console_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut open = None::<String>;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = line.trim() == "```console";
            continue;
        }
        let part = match (&mut open, line.trim().strip_prefix("$ ")) {
            (Some(before), _) => format!("{before} {}", line.trim()),
            (None, Some(command)) if inside && command.starts_with("forebay ") => command.to_owned(),
            _ => continue,
        };
        open = part.strip_suffix('\\').map(str::to_owned);
        if open.is_none() {
            lines.push(part);
        }
    }
    lines
}

#[test]
fn console_blocks_are_found() {
    let text = "```console\n$ forebay run \\\n    --dry-run\nout\n$ ls\n```\n$ forebay plan\n```\n$ forebay tag ls\n```\n";
    assert_eq!(console_lines(text), ["forebay run  --dry-run"]);
    assert_eq!(words(r#"a "b c" 'd "e' f\ g "" | h"#), ["a", "b c", "d \"e", "f g", ""]);
}

#[test]
fn runs_are_strict_unless_told_otherwise() {
    let strict = |line: &str| match parse(line).unwrap().command {
        Command::Run(args) => args.plan.is_strict(),
        other => panic!("{other:?}"),
    };
    assert!(strict("forebay run"));
    assert!(strict("forebay run --strict"));
    assert!(!strict("forebay run --no-strict"));
    assert!(strict("forebay run --no-strict --strict"));
    assert!(!strict("forebay run --strict --no-strict"));
}

#[test]
fn parameters_are_split_at_the_first_equals_sign() {
    let line = "forebay run --param a=1 --parameter 'b=x=y z' --param c=";
    let Command::Run(args) = parse(line).unwrap().command else { panic!() };
    let pairs: Vec<(&str, &str)> = args.plan.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("a", "1"), ("b", "x=y z"), ("c", "")]);
    assert_eq!(parse("forebay run --param a").unwrap_err().kind(), ErrorKind::ValueValidation);
    assert_eq!(parse("forebay run --param =a").unwrap_err().kind(), ErrorKind::ValueValidation);
}

#[test]
fn global_options_stand_anywhere() {
    for line in
        ["forebay -o json -P dev branch ls", "forebay branch ls -O json -P dev", "forebay branch --output json ls --profile dev"]
    {
        let global = parse(line).unwrap().global;
        assert_eq!(global.output, OutputFormat::Json, "{line}");
        assert_eq!(global.profile.as_deref(), Some("dev"), "{line}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_suggestion() {
    let said = |line: &str| parse(line).unwrap_err().to_string();
    assert!(said("forebay brnach ls").contains("'branch'"));
    assert!(said("forebay run --dryrun").contains("--dry-run"));
    assert!(said("forebay run --preview heat").contains("'head'"));
    assert_eq!(parse("forebay query").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
    for line in [
        "forebay query 'SELECT 1' -f x.sql",
        "forebay query 'SELECT 1' --all-rows --max-rows 3",
        "forebay checkout x --from-ref main",
        "forebay parameter set x 1 --required --optional",
        "forebay config get lake --all",
        "forebay run -q -v",
        "forebay gc --grace 5",
        "forebay gc --grace d",
        "forebay gc --grace 999999999999999999d",
        "forebay revert main --job 1",
        "forebay revert",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    for line in [
        "forebay parameter set x -3",
        "forebay query -f -",
        "forebay table create t --from x.csv",
        "forebay commit --pretty fuller",
    ] {
        parse(line).unwrap();
    }
}
