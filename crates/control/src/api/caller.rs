//! Who asks, and what a request takes along of its client's variables.

use serde::{Deserialize, Serialize};

/// Variables, some of them secret: only their names are ever shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub std::collections::BTreeMap<String, String>);

impl Variables {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A person or service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Name.
    pub name: String,
    /// Mail address, may be empty.
    #[serde(default)]
    pub email: String,
}
