//! A run as it happens, on stderr: redrawn lines on a terminal, plain ones elsewhere.
//!
//! ```text
//! done       scan:default.flights    336,776 rows    24.1 MB    0.31 s     printed once, above
//! late       | 12 rows look odd                                            user code, live, above
//! ⠹ running  late     1.20 s                                               one line per running node, redrawn
//! ```

use std::collections::HashMap;
use std::time::Duration;

use forebay_control::api::{Event, NodeResult};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::run;
use super::style::Style;
use super::text::duration;
use crate::output::Output;

/// How often a running line is redrawn.
const REDRAW_MILLIS: u64 = 100;

/// What is on the screen of a run.
pub struct Progress {
    out: Output,
    style: Style,
    width: usize,
    screen: Option<MultiProgress>,
    running: HashMap<String, ProgressBar>,
}

impl Progress {
    /// An empty screen.
    #[must_use]
    pub fn new(out: Output) -> Self {
        let screen = out.animated.then(MultiProgress::new);
        Self { out, style: out.talk_style, width: 0, screen, running: HashMap::new() }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Job { job_id } if self.out.is_verbose() => self.say(&format!("job {job_id}")),
            Event::Job { .. } => {}
            Event::Plan { nodes, drawing } => {
                self.width = run::name_width(nodes.iter().map(|node| node.name.as_str()));
                // In a log the lines below say the same, and they say when.
                let is_wanted = self.screen.is_some() || self.out.is_verbose();
                if is_wanted && !drawing.trim().is_empty() {
                    self.say(&format!("{}\n", drawing.trim_end()));
                }
            }
            Event::Node(node) => self.node(node),
            Event::Log { node, stream, line } => self.say(&run::log(self.style, self.width, node, stream, line)),
            Event::Preview { node, text } => self.say(&run::preview(self.style, node, text)),
            Event::Warning { text } => self.say(&run::warning(self.style, text)),
            // Only queries have one.
            Event::Stream { .. } => {}
        }
    }

    /// Takes away everything that is redrawn.
    pub fn clear(&mut self) {
        for (_, bar) in self.running.drain() {
            bar.finish_and_clear();
        }
        if let Some(screen) = &self.screen {
            // A terminal that cannot be cleared has nothing to clear.
            let _ = screen.clear();
        }
    }

    fn node(&mut self, node: &NodeResult) {
        match node.status.as_str() {
            "waiting" => {}
            "running" => self.start(node),
            _ => {
                if let Some(bar) = self.running.remove(&node.name) {
                    bar.finish_and_clear();
                }
                self.say(&run::node(self.style, self.width, node));
            }
        }
    }

    fn start(&mut self, node: &NodeResult) {
        let Some(screen) = &self.screen else {
            return self.say(&run::node(self.style, self.width, node));
        };
        if self.running.contains_key(&node.name) {
            return;
        }
        let bar = screen.add(ProgressBar::new_spinner());
        let style =
            ProgressStyle::with_template("{spinner} running  {msg}  {took}").expect("the template is a constant that parses");
        bar.set_style(style.with_key("took", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Text is all that `out` takes, and it takes all of it.
            let _ = out.write_str(&duration(state.elapsed().as_secs_f64()));
        }));
        bar.set_message(format!("{:width$}", node.name, width = self.width));
        bar.enable_steady_tick(Duration::from_millis(REDRAW_MILLIS));
        self.running.insert(node.name.clone(), bar);
    }

    fn say(&self, text: &str) {
        match &self.screen {
            // Above the lines that are redrawn. A screen that cannot be written to is nobody's.
            Some(screen) => screen.suspend(|| self.out.talk(text)),
            None => self.out.talk(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
