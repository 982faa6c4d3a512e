//! The house rules as a test: cheap to run, and each failure names the file, the line and the remedy.
//!
//! What is checked: the crate edges of ARCHITECTURE.md against `cargo metadata`; a `//!` header in every Rust file
//! and a docstring in every Python one; `unsafe` only in its islands; banned words; lengths of functions and
//! files; error codes (each has a page, is used, and is provoked by a test); links in Markdown; one Arrow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use regex::Regex;

use crate::setup::{cargo, root};
use crate::step;

/// A function longer than this fails.
const FUNCTION_LINES_MAX: usize = 70;
/// A file longer than this fails.
const FILE_LINES_MAX: usize = 800;
/// The crates that may say `unsafe`.
const UNSAFE_ISLANDS: [&str; 5] = ["crates/arena/", "crates/preload/", "crates/shm/", "crates/sandbox/", "crates/python/"];

struct File {
    path: String,
    text: String,
}

/// Runs every check and reports all findings.
pub fn tidy() -> Result<()> {
    step("tidy");
    let root = root();
    let files = read_all(&root)?;
    let mut findings = Vec::new();
    edges(&root, &files, &mut findings)?;
    headers(&files, &mut findings);
    islands(&files, &mut findings);
    banned(&files, &mut findings)?;
    lengths(&files, &mut findings);
    error_codes(&files, &mut findings)?;
    links(&root, &files, &mut findings)?;
    one_arrow(&files, &mut findings);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy found {}:\n  {}", findings.len(), findings.join("\n  "))
}

fn read_all(root: &Path) -> Result<Vec<File>> {
    let listed = std::process::Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("could not run git")?;
    let paths: BTreeSet<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    let files: Vec<File> =
        paths.into_iter().filter_map(|path| fs::read_to_string(root.join(&path)).ok().map(|text| File { path, text })).collect();
    if files.is_empty() {
        bail!("found no files: run this inside the repository");
    }
    Ok(files)
}

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// The fenced block `edges` of ARCHITECTURE.md must be what cargo sees.
fn edges(root: &Path, files: &[File], findings: &mut Vec<String>) -> Result<()> {
    let output = cargo(root).args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("could not read `cargo metadata`")?;
    let mut real = BTreeMap::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(name) = name.strip_prefix("forebay-") else { continue };
        let dependencies: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str()?.strip_prefix("forebay-"))
            .collect();
        real.insert(name.to_owned(), dependencies.into_iter().collect::<Vec<_>>().join(" "));
    }
    let text = &files.iter().find(|file| file.path == "ARCHITECTURE.md").context("ARCHITECTURE.md is missing")?.text;
    let block = text
        .split("```edges\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .context("ARCHITECTURE.md has no ```edges block")?;
    let written: BTreeMap<String, String> = block
        .lines()
        .filter_map(|line| line.split_once("->"))
        .map(|(from, to)| {
            let sorted: BTreeSet<&str> = to.split_whitespace().collect();
            (from.trim().to_owned(), sorted.into_iter().collect::<Vec<_>>().join(" "))
        })
        .collect();
    for name in real.keys().chain(written.keys()).collect::<BTreeSet<_>>() {
        let (cargo, page) = (real.get(name), written.get(name));
        if cargo != page {
            findings.push(format!("ARCHITECTURE.md: edges of `{name}`: cargo says {cargo:?}, the page says {page:?}"));
        }
    }
    Ok(())
}

fn headers(files: &[File], findings: &mut Vec<String>) {
    for file in rust(files) {
        if !file.text.starts_with("//!") {
            findings.push(format!("{}:1: starts without a `//!` header that says what lives here and why", file.path));
        }
    }
    for file in files.iter().filter(|file| file.path.ends_with(".py") && !file.path.contains("/cases/")) {
        let start = file.text.trim_start_matches("#!/usr/bin/env python3\n").trim_start();
        if !file.text.trim().is_empty() && !(start.starts_with("\"\"\"") || start.starts_with("r\"\"\"")) {
            findings.push(format!("{}:1: starts without a docstring", file.path));
        }
    }
}

fn islands(files: &[File], findings: &mut Vec<String>) {
    let outside =
        |file: &&File| !UNSAFE_ISLANDS.iter().any(|island| file.path.starts_with(island)) && !file.path.starts_with("xtask/");
    for file in rust(files).filter(outside) {
        for (number, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe ") || code.contains("allow(unsafe_code") {
                findings.push(format!("{}:{}: `unsafe` outside arena, preload, shm and python", file.path, number + 1));
            }
        }
    }
}

fn banned(files: &[File], findings: &mut Vec<String>) -> Result<()> {
    let words = [
        (r"#\[should_panic", "assert on the error instead of #[should_panic]"),
        (r"#\[ignore\]", "say why: #[ignore = \"…\"], or let the test report `skipped: reason`"),
        (r"\bdbg!\(", "remove dbg!"),
        (r"\btodo!\(|\bunimplemented!\(", "build it or leave it out"),
        (r"thread::sleep|tokio::time::sleep", "wait for the event, not for time"),
        (r"/home/[a-z]+/|/root/", "no path of a machine"),
    ];
    let words: Vec<(Regex, &str)> = words.iter().map(|(word, why)| Ok((Regex::new(word)?, *why))).collect::<Result<_>>()?;
    let checked = |file: &&File| file.path.ends_with(".rs") || file.path.ends_with(".py") || file.path.ends_with(".md");
    for file in files.iter().filter(checked).filter(|file| file.path != "xtask/src/tidy.rs") {
        for (number, line) in file.text.lines().enumerate() {
            for (word, why) in words.iter().filter(|(word, _)| word.is_match(line)) {
                findings.push(format!("{}:{}: `{word}`: {why}", file.path, number + 1));
            }
        }
    }
    Ok(())
}

fn lengths(files: &[File], findings: &mut Vec<String>) {
    for file in rust(files) {
        let lines: Vec<&str> = file.text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            findings.push(format!("{}: {} lines, more than {FILE_LINES_MAX}: cut it at a contract", file.path, lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function =
                ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn ", "pub(crate) async fn "]
                    .iter()
                    .any(|word| line.trim_start().starts_with(word));
            if !is_function {
                continue;
            }
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(0, |count| count + 1);
            if length > FUNCTION_LINES_MAX {
                findings.push(format!(
                    "{}:{}: a function of {length} lines, more than {FUNCTION_LINES_MAX}",
                    file.path,
                    start + 1
                ));
            }
        }
    }
}

/// A code is used in the sources, explained by a page, and provoked by a test.
fn error_codes(files: &[File], findings: &mut Vec<String>) -> Result<()> {
    let code = Regex::new(r"\b(?:PLN|CAT|LAK|ENV|IPC|RUN|CTL|CLI|RST)\d{4}\b")?;
    let (mut used, mut pages, mut tested) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for file in files {
        let is_page = file.path.starts_with("docs/errors/");
        if is_page {
            pages.extend(code.find(&file.path).map(|found| found.as_str().to_owned()));
            continue;
        }
        let is_test = file.path.contains("tests") || file.path.contains("/cases/");
        let is_source = (file.path.ends_with(".rs") || file.path.ends_with(".py")) && !is_test;
        let (source, test) = if is_test {
            ("", file.text.as_str())
        } else if is_source {
            file.text.split_at(file.text.find("#[cfg(test)]\nmod tests {").unwrap_or(file.text.len()))
        } else {
            continue;
        };
        let without_comments =
            source.lines().filter(|line| !line.trim_start().starts_with("//") && !line.trim_start().starts_with('#'));
        for line in without_comments {
            used.extend(code.find_iter(line).map(|found| found.as_str().to_owned()));
        }
        tested.extend(code.find_iter(test).map(|found| found.as_str().to_owned()));
    }
    for code in &used {
        if !pages.contains(code) {
            findings.push(format!("{code}: has no page docs/errors/{code}.md"));
        }
        if !tested.contains(code) {
            findings.push(format!("{code}: no test provokes it"));
        }
    }
    for code in pages.difference(&used) {
        findings.push(format!("docs/errors/{code}.md: nothing uses this code"));
    }
    Ok(())
}

fn links(root: &Path, files: &[File], findings: &mut Vec<String>) -> Result<()> {
    let link = Regex::new(r"\]\(([^)#\s]+)[^)]*\)")?;
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder: PathBuf = root.join(Path::new(&file.path).parent().unwrap_or(Path::new("")));
        for target in link.captures_iter(&file.text).map(|found| found[1].to_owned()) {
            if !target.contains("://") && !target.starts_with("mailto:") && !folder.join(&target).exists() {
                findings.push(format!("{}: the link `{target}` leads nowhere", file.path));
            }
        }
    }
    Ok(())
}

fn one_arrow(files: &[File], findings: &mut Vec<String>) {
    let lock = files.iter().find(|file| file.path == "Cargo.lock").map_or("", |file| file.text.as_str());
    let count = lock.matches("name = \"arrow-array\"\n").count();
    if count != 1 {
        findings.push(format!("Cargo.lock: {count} versions of arrow-array; exactly one may be there"));
    }
}
