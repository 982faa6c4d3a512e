//! From values to text. Pure: no module below writes anywhere, except [`progress`], which draws on stderr.

pub mod commits;
pub mod diff;
pub mod errors;
pub mod explain;
pub mod progress;
pub mod rows;
pub mod run;
pub mod style;
pub mod table;
pub mod text;
