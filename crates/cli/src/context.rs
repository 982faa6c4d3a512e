//! What a command has at hand: its voices, the home, the settings, and a conversation with the control plane.

use std::fs::File;
use std::io::BufReader;

use arrow::ipc::reader::StreamReader;
use forebay_control::api::{self, Event, Op};
use forebay_control::client::{self, Client};
use forebay_control::config::{DEFAULT_PROFILE, Settings};
use forebay_control::home::Home;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::Global;
use crate::error::{Error, Failure, Result, UNREADABLE};
use crate::exit::Exit;
use crate::output::Output;
use crate::render::errors;

/// The surroundings of one command.
#[derive(Debug, Clone)]
pub struct Context {
    /// stdout and stderr.
    pub out: Output,
    profile: Option<String>,
}

impl Context {
    /// From the options.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        Self { out: Output::new(global), profile: global.profile.clone() }
    }

    /// The folders of this home.
    pub fn home(&self) -> Result<Home> {
        Ok(Home::from_env()?)
    }

    /// The name of the profile in use, whether it is written down or not.
    #[must_use]
    pub fn profile(&self) -> String {
        let variable = || std::env::var("FOREBAY_PROFILE").ok().filter(|name| !name.is_empty());
        self.profile.clone().or_else(variable).unwrap_or_else(|| DEFAULT_PROFILE.to_owned())
    }

    /// The settings in force.
    pub fn settings(&self) -> Result<Settings> {
        Ok(Settings::load(&self.home()?, self.profile.as_deref())?)
    }

    /// A conversation with the control plane, which is started if it does not run.
    pub fn session(&self) -> Result<Session> {
        let home = self.home()?;
        let settings = Settings::load(&home, self.profile.as_deref())?;
        let client = client::connect(&home)?;
        Ok(Session { settings, client })
    }

    /// Tells an error and gives the exit code it stands for.
    #[must_use]
    pub fn tell(&self, error: &api::Error) -> Exit {
        self.out.insist(&errors::error(self.out.talk_style, error));
        if self.out.is_json() {
            // The words are on stderr already, so a closed stdout loses nothing.
            let _ = self.out.object(json!({ "error": error }));
        }
        error.fault_kind().into()
    }
}

/// The rows of a query, as they come.
pub type Rows = StreamReader<BufReader<File>>;

/// A conversation with the control plane about one lake.
pub struct Session {
    /// The settings in force.
    pub settings: Settings,
    client: Client,
}

impl Session {
    /// Asks, and reads the answer as `T`.
    pub fn call<T: DeserializeOwned>(&mut self, op: Op) -> Result<T> {
        self.watch(op, &mut |_| ())
    }

    /// Asks, hands over what happens meanwhile, and reads the answer as `T`.
    pub fn watch<T: DeserializeOwned>(&mut self, op: Op, on_event: &mut dyn FnMut(api::Event)) -> Result<T> {
        let request = self.request(op);
        let answer = self.client.call(&request, on_event)?;
        read(answer.result)
    }

    /// Asks for rows, which `on_rows` takes as they come, with the job's id. They are all there when this returns without an error.
    pub fn rows(&mut self, op: Op, on_rows: &mut dyn FnMut(&str, Rows) -> Result<()>) -> Result<api::QueryResult> {
        let request = self.request(op);
        let mut broken = Ok(());
        let answer = self.client.call_beside(&request, &mut |event, mut pipe| match (event, pipe.pop()) {
            (Event::Stream { job_id }, Some(pipe)) => match StreamReader::try_new(BufReader::new(File::from(pipe)), None) {
                Ok(rows) => match on_rows(&job_id, rows) {
                    // The rows broke off: if the query failed, the answer says why.
                    Err(Failure::Error(error)) if error.code == UNREADABLE => {
                        broken = Err(Failure::Error(error));
                        Ok(())
                    }
                    result => result,
                },
                // It failed before it knew its columns; the answer says why.
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        })?;
        broken.and_then(|()| read(answer.result))
    }

    /// The ref or branch to use: the one given, else the active branch.
    #[must_use]
    pub fn or_active(&self, given: Option<String>) -> String {
        given.unwrap_or_else(|| self.settings.active_branch.clone())
    }

    fn request(&self, op: Op) -> api::Request {
        api::Request {
            v: api::VERSION,
            lake: self.settings.lake.clone(),
            author: self.settings.author.clone(),
            profile: self.settings.profile.clone(),
            variables: api::Variables(forebay_control::storage::variables()),
            op,
        }
    }
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T> {
    serde_json::from_value(answer).map_err(|error| Error::Answer { why: error.to_string() }.into())
}
