//! The secrets of one run, and what keeps them out of everything the run says.
//!
//! A value is looked for as it is and in the shapes it takes by accident: `repr`, JSON, base64, hexadecimal, a URL, HTML, backwards,
//! in other letter case; and in parts of at least [`PART_BYTES`]. What is found becomes `***`. That is a net below user code
//! that prints what it should not, not a wall: code that wants to tell a secret can.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use forebay_types::Report;

use crate::event::{NodeError, NodeOutcome, Outcome, WorkerEvent};

/// Bytes of a part of a secret that are not shown; shorter secrets are looked for as a whole.
pub const PART_BYTES: usize = 8;

/// Bytes of the shortest secret: a shorter one is in every second line by chance.
pub const SECRET_BYTES_MIN: usize = 4;

/// What is shown in the place of a secret.
const MASK: &str = "***";

/// Values by name. Cloning shares them.
#[derive(Clone, Default)]
pub struct Secrets {
    values: Arc<BTreeMap<String, String>>,
    mask: Arc<Mask>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Secrets {
    /// These, by the names of their parameters.
    #[must_use]
    pub fn new(values: BTreeMap<String, String>) -> Self {
        let mask = Mask::new(values.values().map(String::as_str));
        Self { values: Arc::new(values), mask: Arc::new(mask) }
    }

    /// Names of the parameters that have a value.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value of a parameter.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A text without them.
    #[must_use]
    pub fn masked(&self, text: &str) -> String {
        self.mask.apply(text)
    }

    pub(crate) fn event(&self, event: WorkerEvent) -> WorkerEvent {
        if self.values.is_empty() {
            return event;
        }
        match event {
            WorkerEvent::Log { node, stream, line } => WorkerEvent::Log { node, stream, line: self.masked(&line) },
            WorkerEvent::Preview { node, text } => WorkerEvent::Preview { node, text: self.masked(&text) },
            WorkerEvent::Warning { text } => WorkerEvent::Warning { text: self.masked(&text) },
            WorkerEvent::NodeFinished { outcome } => WorkerEvent::NodeFinished { outcome: self.node(outcome) },
            WorkerEvent::NodeStarted { .. } | WorkerEvent::EnvironmentProgress { .. } | WorkerEvent::EnvironmentReady { .. } => {
                event
            }
        }
    }

    pub(crate) fn outcome(&self, outcome: Outcome) -> Outcome {
        if self.values.is_empty() {
            return outcome;
        }
        let error = outcome.error.map(|(node, error)| (node, self.error(error)));
        Outcome { error, nodes: outcome.nodes.into_iter().map(|node| self.node(node)).collect(), ..outcome }
    }

    fn node(&self, outcome: NodeOutcome) -> NodeOutcome {
        NodeOutcome { error: outcome.error.map(|error| self.error(error)), ..outcome }
    }

    fn error(&self, NodeError { report, traceback }: NodeError) -> NodeError {
        let Report { code, message, causes, hint, at, fault } = report;
        let report = Report {
            message: self.masked(&message),
            causes: causes.iter().map(|cause| self.masked(cause)).collect(),
            hint: hint.map(|hint| self.masked(&hint)),
            code,
            at,
            fault,
        };
        NodeError { report, traceback: traceback.map(|text| self.masked(&text)) }
    }
}

/// Finds shapes of secrets in text, whatever the case of their letters.
#[derive(Debug, Default)]
struct Mask {
    /// Every part of [`PART_BYTES`] of every longer shape, in lower case.
    parts: HashSet<[u8; PART_BYTES]>,
    /// Shorter shapes, in lower case.
    short: Vec<Vec<u8>>,
}

impl Mask {
    fn new<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut mask = Self::default();
        for shape in values.flat_map(shapes) {
            let shape = shape.to_ascii_lowercase();
            match shape.len() {
                ..SECRET_BYTES_MIN => {}
                SECRET_BYTES_MIN..=PART_BYTES => mask.short.push(shape),
                _ => mask.parts.extend(shape.windows(PART_BYTES).filter_map(|part| <[u8; PART_BYTES]>::try_from(part).ok())),
            }
        }
        mask
    }

    fn apply(&self, text: &str) -> String {
        let bytes = text.to_ascii_lowercase().into_bytes();
        let mut found: Vec<(usize, usize)> = Vec::new();
        for start in 0..bytes.len() {
            let rest = &bytes[start..];
            let is_part = rest.first_chunk::<PART_BYTES>().is_some_and(|part| self.parts.contains(part));
            let short = self.short.iter().filter(|shape| rest.starts_with(shape)).map(Vec::len).max();
            let length = short.max(is_part.then_some(PART_BYTES)).unwrap_or(0);
            let end = start + length;
            match found.last_mut() {
                _ if length == 0 => {}
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => found.push((start, end)),
            }
        }
        let mut masked = String::with_capacity(text.len());
        let mut at = 0;
        for (start, end) in found {
            // Parts of a shape may begin and end inside of a character.
            let start = (0..=start).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0).max(at);
            let end = (end..=text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(text.len());
            masked.push_str(&text[at..start]);
            masked.push_str(MASK);
            at = end;
        }
        masked.push_str(&text[at..]);
        masked
    }
}

/// What a value looks like when it is printed, quoted or encoded.
fn shapes(value: &str) -> Vec<Vec<u8>> {
    let json = serde_json::to_string(value).unwrap_or_default();
    let json = json.get(1..json.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let ascii = |escape: fn(&mut String, u32)| {
        json.chars().fold(String::new(), |mut text, c| {
            if c.is_ascii() {
                text.push(c)
            } else {
                escape(&mut text, u32::from(c))
            }
            text
        })
    };
    let utf16 = |text: &mut String, code: u32| {
        let mut units = [0; 2];
        for unit in char::from_u32(code).unwrap_or_default().encode_utf16(&mut units) {
            let _ = write!(text, "\\u{unit:04x}");
        }
    };
    let per_byte = |plain: &str, prefix: &str| {
        value.bytes().fold(String::new(), |mut text, byte| {
            if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "{prefix}{byte:02x}");
            }
            text
        })
    };
    let python = value.escape_debug().to_string();
    let bytes_repr = value.bytes().flat_map(std::ascii::escape_default).map(char::from).collect::<String>();
    let html = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let html_quotes = html.replace('"', "&quot;").replace('\'', "&#x27;");
    let mut texts =
        vec![value.to_owned(), ascii(utf16), json, python.replace("\\\"", "\"").replace("\\'", "'"), python, bytes_repr];
    texts.extend([html, html_quotes, value.replace('\'', "'\\''"), value.chars().rev().collect()]);
    // As `urllib.parse.quote` and `quote_plus` write it, with and without its exceptions.
    texts.extend(["-_.~/", "-_.~", ""].map(|plain| per_byte(plain, "%")));
    texts.push(per_byte("-_.~", "%").replace("%20", "+"));
    texts.push(value.bytes().fold(String::new(), |text, byte| text + &format!("{byte:02x}")));
    texts.push(value.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    let utf16_bytes: Vec<u8> = value.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let plain = [value.as_bytes(), &utf16_bytes];
    texts.extend(plain.iter().flat_map(|bytes| base64_shapes(bytes)));
    texts.into_iter().map(String::into_bytes).collect()
}

/// What base64 makes of bytes that stand anywhere in what is encoded: without the characters that their neighbours decide.
fn base64_shapes(bytes: &[u8]) -> Vec<String> {
    let alphabets: [&[u8; 64]; 2] = [
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
    ];
    let mut found = Vec::new();
    for before in 0..3_usize {
        let bits = (before * 8, (before + bytes.len()) * 8);
        // Whole characters of six bits.
        let (first, last) = (bits.0.div_ceil(6), bits.1 / 6);
        let bit = |at: usize| bytes[at / 8 - before] >> (7 - at % 8) & 1;
        for alphabet in alphabets {
            let character = |index: usize| (index * 6..index * 6 + 6).fold(0_u8, |six, at| six << 1 | bit(at));
            found.push((first..last).map(|index| char::from(alphabet[usize::from(character(index))])).collect());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "s3cr3t/Töken \"q'&+\\n-12345";

    fn secrets(value: &str) -> Secrets {
        Secrets::new([("token".to_owned(), value.to_owned())].into())
    }

    #[test]
    fn base64_is_found_wherever_it_stands() {
        let shapes = base64_shapes(b"hunter2!");
        // As `base64` encodes `hunter2!`, `xhunter2!` and `xyhunter2!`.
        for (encoded, whole) in
            [("aHVudGVyMiE=", "aHVudGVyMi"), ("eGh1bnRlcjIh", "h1bnRlcjIh"), ("eHlodW50ZXIyIQ==", "odW50ZXIyI")]
        {
            assert!(shapes.iter().any(|shape| shape == whole && encoded.contains(shape.as_str())), "{whole} {shapes:?}");
            assert!(!secrets("hunter2!").masked(encoded).contains(&whole[2..6]), "{encoded}");
        }
    }

    #[test]
    fn a_secret_is_masked_in_many_shapes() {
        let secrets = secrets(VALUE);
        let json = serde_json::to_string(VALUE).unwrap();
        let hex: String = VALUE.bytes().map(|byte| format!("{byte:02X}")).collect();
        let backwards: String = VALUE.chars().rev().collect();
        let texts =
            [VALUE.to_owned(), json, hex, backwards, VALUE.to_uppercase(), format!("{VALUE:?}"), format!("a{VALUE}{VALUE}b")];
        for text in texts {
            let masked = secrets.masked(&format!("<{text}>"));
            assert!(masked.len() <= 8 && masked.contains(MASK), "{text} -> {masked}");
        }
        assert_eq!(secrets.masked(&format!("key={VALUE}, ok")), "key=***, ok");
        assert_eq!(secrets.masked("part cr3t/Tök is gone"), "part *** is gone");
        assert_eq!(secrets.masked("nothing here: Tö"), "nothing here: Tö");
        assert_eq!(secrets.masked("nothing\u{1F512}"), "nothing\u{1F512}");
    }

    #[test]
    fn short_secrets_are_masked_as_a_whole() {
        let secrets = secrets("1234");
        assert_eq!(secrets.masked("pin 1234 and 123 and 12341234"), "pin *** and 123 and ***");
        assert_eq!(format!("{secrets:?}"), r#"{"token"}"#);
        assert_eq!((secrets.value("token"), secrets.value("x")), (Some("1234"), None));
        assert_eq!(secrets.names().collect::<Vec<_>>(), ["token"]);
    }

    proptest::proptest! {
        #[test]
        fn no_secret_is_left_and_nothing_else_breaks(before in "\\PC{0,9}", value in "\\PC{4,20}", after in "\\PC{0,9}") {
            let masked = secrets(&value).masked(&format!("{before}{value}{after}"));
            proptest::prop_assert!(!masked.replace(MASK, "\0").contains(&value));
        }
    }
}
