//! The summary of a snapshot: what was added and removed, and the totals after it.
//!
//! The crate's own collector writes partition values as text, and its conversion of timestamps before 1970 panics;
//! its totals take every overwrite for a truncate. So the numbers are counted here.

use std::collections::{BTreeMap, HashMap, HashSet};

use iceberg::spec::{DataContentType, DataFile, Struct};

/// What a change adds and removes.
#[derive(Default)]
pub(crate) struct Counts {
    numbers: BTreeMap<&'static str, u64>,
    partitions: HashSet<(i32, Struct)>,
}

impl Counts {
    /// Counts a new data file.
    pub(crate) fn add(&mut self, file: &DataFile, spec_id: i32) {
        self.count("added-data-files", 1);
        self.count("added-records", file.record_count());
        self.count("added-files-size", file.file_size_in_bytes());
        self.partitions.insert((spec_id, file.partition().clone()));
    }

    /// Counts a data or delete file that goes.
    pub(crate) fn remove(&mut self, file: &DataFile, spec_id: i32) {
        self.count("removed-files-size", file.file_size_in_bytes());
        match file.content_type() {
            DataContentType::Data => {
                self.count("deleted-data-files", 1);
                self.count("deleted-records", file.record_count());
            }
            DataContentType::PositionDeletes => {
                self.count("removed-delete-files", 1);
                self.count("removed-position-delete-files", 1);
                self.count("removed-position-deletes", file.record_count());
            }
            DataContentType::EqualityDeletes => {
                self.count("removed-delete-files", 1);
                self.count("removed-equality-delete-files", 1);
                self.count("removed-equality-deletes", file.record_count());
            }
        }
        self.partitions.insert((spec_id, file.partition().clone()));
    }

    fn count(&mut self, key: &'static str, number: u64) {
        *self.numbers.entry(key).or_default() += number;
    }

    /// The summary, given the parent snapshot's.
    pub(crate) fn summary(&self, parent: Option<&HashMap<String, String>>) -> HashMap<String, String> {
        let mut summary: HashMap<String, String> =
            self.numbers.iter().map(|(key, number)| ((*key).to_owned(), number.to_string())).collect();
        summary.insert("changed-partition-count".to_owned(), self.partitions.len().to_string());
        add_totals(&mut summary, parent);
        summary
    }
}

/// `total-x` = the parent's + added − removed. A total the parent lacks stays out: other engines leave some out.
fn add_totals(summary: &mut HashMap<String, String>, parent: Option<&HashMap<String, String>>) {
    for (total, added, removed) in [
        ("total-data-files", "added-data-files", "deleted-data-files"),
        ("total-delete-files", "added-delete-files", "removed-delete-files"),
        ("total-records", "added-records", "deleted-records"),
        ("total-files-size", "added-files-size", "removed-files-size"),
        ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
        ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
    ] {
        let number = |map: &HashMap<String, String>, key: &str| map.get(key).map_or(Some(0), |text| text.parse().ok());
        let before: Option<u64> = match parent {
            None => Some(0),
            Some(parent) => parent.get(total).and_then(|text| text.parse().ok()),
        };
        let sum = || {
            let (added, removed): (u64, u64) = (number(summary, added)?, number(summary, removed)?);
            before?.checked_add(added)?.checked_sub(removed)
        };
        if let Some(sum) = sum() {
            summary.insert(total.to_owned(), sum.to_string());
        }
    }
}
