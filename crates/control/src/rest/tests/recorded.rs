//! What PyIceberg 0.12.0 and DuckDB 1.5.5 send, recorded from real sessions (`bodies/*.json`), is answered as it was then.
//!
//! A recording holds each request with a body, its status, and the identity its table had. `{LAKE}` stands for the lake's
//! folder. Times are moved to now, and identities that the server gave are replaced by those it gives this time.

use serde_json::{Value, json};

use super::{Lab, walk};

fn replay(lab: &Lab, recording: &str) -> usize {
    let lake = lab.folder.path().display().to_string();
    let mut identities: Vec<(String, String)> = Vec::new();
    let calls: Vec<Value> = serde_json::from_str(&recording.replace("{LAKE}", &lake)).unwrap();
    for call in &calls {
        let (method, path) = (call["method"].as_str().unwrap(), call["path"].as_str().unwrap());
        let mut body = call["body"].clone();
        to_now(&mut body);
        let text = identities.iter().fold(body.to_string(), |text, (old, new)| text.replace(old, new));
        let (status, answer) = match lab.ask(method, path, &text) {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (error.status().0, error.body()),
        };
        assert_eq!(json!(status), call["status"], "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        if let (Some(old), Some(new)) = (call["uuid"].as_str(), answer["metadata"]["table-uuid"].as_str()) {
            identities.push((old.to_owned(), new.to_owned()));
        }
    }
    calls.len()
}

/// A snapshot may not be older than the table, which is made now.
fn to_now(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "timestamp-ms" {
                    *value = json!(chrono::Utc::now().timestamp_millis());
                }
                to_now(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(to_now),
        _ => {}
    }
}

#[test]
fn what_pyiceberg_sends() {
    let lab = Lab::new();
    assert!(replay(&lab, include_str!("../bodies/pyiceberg.json")) >= 12);
    let words: Vec<String> = lab.commits().into_iter().map(|commit| commit.message).collect();
    assert!(
        words.contains(&"Create `raw.made`".to_owned()) && words.contains(&"Change the schema of `raw.t`".to_owned()),
        "{words:?}"
    );
}

#[test]
fn what_duckdb_sends() {
    let lab = Lab::new();
    assert!(replay(&lab, include_str!("../bodies/duckdb.json")) > 12);
    let words: Vec<String> = lab.commits().into_iter().map(|commit| commit.message).collect();
    let both =
        |word: &&String| word.to_lowercase().contains("append to `duck.a`") && word.to_lowercase().contains("append to `duck.b`");
    assert_eq!(words.iter().filter(both).count(), 1, "a transaction is one commit: {words:?}");
}

#[test]
fn sent_again_nothing_is_done_twice() {
    for recording in [include_str!("../bodies/pyiceberg.json"), include_str!("../bodies/duckdb.json")] {
        let lab = Lab::new();
        replay(&lab, recording);
        let (commits, files) = (lab.commits().len(), walk(lab.folder.path()));
        let lake = lab.folder.path().display().to_string();
        let calls: Vec<Value> = serde_json::from_str(&recording.replace("{LAKE}", &lake)).unwrap();
        // A table that was made and then dropped or renamed is made again: that is not to be told from a wish.
        let adds_rows = |call: &&Value| {
            let body = call["body"].to_string();
            call["method"] == "POST" && body.contains("add-snapshot") && !body.contains("assert-create")
        };
        for call in calls.iter().filter(adds_rows) {
            let answer = lab.ask("POST", call["path"].as_str().unwrap(), &call["body"].to_string());
            assert!(answer.map_or_else(|error| matches!(error.status().0, 404 | 409 | 400), |answer| answer.status < 300));
        }
        assert_eq!((lab.commits().len(), walk(lab.folder.path())), (commits, files));
    }
}
