//! Colours by meaning. Everything reads the same without them.

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Escape sequences are understood and wanted.
    pub colour: bool,
}

impl Style {
    /// No colours.
    #[cfg(test)]
    pub const PLAIN: Self = Self { colour: false };

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What matters most on a line.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters least.
    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// It went well.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// It failed.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// It needs attention.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// A name: whose line this is.
    #[must_use]
    pub fn name(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// A status word of a node, a job or a check, by its meaning.
    #[must_use]
    pub fn status(self, word: &str) -> String {
        match word.trim() {
            "done" | "SUCCESS" | "cached" | "ok" => self.good(word),
            "failed" | "FAILED" => self.bad(word),
            "cancelled" | "CANCELLED" | "warning" => self.warn(word),
            "running" | "RUNNING" => self.name(word),
            _ => self.faint(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_the_text_itself() {
        assert_eq!(Style::PLAIN.bad("x"), "x");
        assert_eq!(Style { colour: true }.bad("x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(Style { colour: true }.bad(""), "");
        assert_eq!(Style { colour: true }.status("done     "), "\x1b[32mdone     \x1b[0m");
    }
}
